"""Processes the messages of inbox "payments". Any number of these may run side by side.

Wants psycopg 3. DATABASE_URL says where; with --once it ends when nothing is left.
"""

import os
import sys
import time

import psycopg
from psycopg.rows import dict_row


def work(connection, message):
    """The effect of a message, in the transaction that marks it as processed."""
    connection.execute(
        "INSERT INTO balance AS b (account, amount) VALUES (%(account)s, %(amount)s)"
        " ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount",
        message["payload"],
    )


def process(connection, message):
    try:
        with connection.transaction():
            # First, as it locks the message: false when a claim ran out and somebody else was faster.
            marked = connection.execute(
                "SELECT tide.inbox_mark_processed('payments', %s) AS mine", [message["event_id"]]
            ).fetchone()
            if marked["mine"]:
                work(connection, message)
    except (psycopg.DataError, psycopg.IntegrityError, KeyError, TypeError) as error:
        # The message's fault: count the attempt. Anything else, such as a lost connection, ends the program; the
        # claim runs out and somebody else gets the message.
        connection.execute(
            "SELECT tide.inbox_mark_failed('payments', %s, %s)", [message["event_id"], str(error)]
        )


def main():
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, row_factory=dict_row) as connection:
        while True:
            messages = connection.execute(
                "SELECT event_id, payload FROM tide.inbox_claim('payments', 10, '30 seconds')"
            ).fetchall()
            for message in messages:
                process(connection, message)
            if not messages:
                if "--once" in sys.argv:
                    return
                time.sleep(0.2)


main()
