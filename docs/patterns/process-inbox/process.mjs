// Processes the messages of inbox "payments". Any number of these may run side by side.
//
// Wants the package pg. DATABASE_URL says where; with --once it ends when nothing is left.

import { setTimeout } from "node:timers/promises";
import pg from "pg";

const client = new pg.Client({ connectionString: process.env.DATABASE_URL });

// The effect of a message, in the transaction that marks it as processed.
async function work({ payload }) {
  await client.query(
    `INSERT INTO balance AS b (account, amount) VALUES ($1, $2)
     ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount`,
    [payload.account, payload.amount],
  );
}

// Data exceptions and constraints: the message's fault. Anything else, such as a lost connection, ends the program;
// the claim runs out and somebody else gets the message.
const isMessagesFault = (error) => /^(22|23)/.test(error.code ?? "");

async function process_(message) {
  await client.query("BEGIN");
  try {
    // First, as it locks the message: false when a claim ran out and somebody else was faster.
    const { rows } = await client.query("SELECT tide.inbox_mark_processed('payments', $1) AS mine", [
      message.event_id,
    ]);
    if (rows[0].mine) await work(message);
    await client.query("COMMIT");
  } catch (error) {
    if (!isMessagesFault(error)) throw error;
    await client.query("ROLLBACK");
    await client.query("SELECT tide.inbox_mark_failed('payments', $1, $2)", [message.event_id, error.message]);
  }
}

await client.connect();
for (;;) {
  const { rows } = await client.query(
    "SELECT event_id, payload FROM tide.inbox_claim('payments', 10, '30 seconds')",
  );
  for (const message of rows) await process_(message);
  if (rows.length === 0) {
    if (process.argv.includes("--once")) break;
    await setTimeout(200);
  }
}
await client.end();
