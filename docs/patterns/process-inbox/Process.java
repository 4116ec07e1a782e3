// Processes the messages of inbox "payments". Any number of these may run side by side.
//
// Wants PostgreSQL's JDBC driver: java -cp postgresql.jar Process.java [--once]
// JDBC_URL, PGUSER and PGPASSWORD say where; with --once it ends when nothing is left.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.List;

public class Process {
    record Message(String eventId, String payload) {}

    public static void main(String[] arguments) throws Exception {
        boolean once = List.of(arguments).contains("--once");
        try (Connection connection = DriverManager.getConnection(
                System.getenv("JDBC_URL"), System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            while (true) {
                List<Message> messages = claim(connection);
                for (Message message : messages) {
                    process(connection, message);
                }
                if (messages.isEmpty()) {
                    if (once) {
                        return;
                    }
                    Thread.sleep(200);
                }
            }
        }
    }

    static List<Message> claim(Connection connection) throws SQLException {
        List<Message> messages = new ArrayList<>();
        try (PreparedStatement statement = connection.prepareStatement(
                "SELECT event_id, payload FROM tide.inbox_claim('payments', 10, '30 seconds')");
                ResultSet rows = statement.executeQuery()) {
            while (rows.next()) {
                messages.add(new Message(rows.getString(1), rows.getString(2)));
            }
        }
        return messages;
    }

    /** The effect of a message, in the transaction that marks it as processed. */
    static void work(Connection connection, Message message) throws SQLException {
        run(connection, """
                INSERT INTO balance AS b (account, amount)
                SELECT p ->> 'account', (p ->> 'amount')::bigint FROM (SELECT ?::jsonb AS p) AS message
                ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount""", message.payload());
    }

    static void process(Connection connection, Message message) throws SQLException {
        connection.setAutoCommit(false);
        try {
            // First, as it locks the message: false when a claim ran out and somebody else was faster.
            if (mark(connection, message)) {
                work(connection, message);
            }
            connection.commit();
        } catch (SQLException error) {
            // Data exceptions and constraints: the message's fault. Anything else, such as a lost connection, ends
            // the program; the claim runs out and somebody else gets the message.
            if (error.getSQLState() == null || !error.getSQLState().matches("(22|23).*")) {
                throw error;
            }
            connection.rollback();
            run(connection, "SELECT tide.inbox_mark_failed('payments', ?, ?)", message.eventId(), error.getMessage());
            connection.commit();
        } finally {
            connection.setAutoCommit(true);
        }
    }

    static boolean mark(Connection connection, Message message) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(
                "SELECT tide.inbox_mark_processed('payments', ?)")) {
            statement.setString(1, message.eventId());
            try (ResultSet rows = statement.executeQuery()) {
                return rows.next() && rows.getBoolean(1);
            }
        }
    }

    static void run(Connection connection, String sql, String... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int n = 0; n < values.length; n++) {
                statement.setString(n + 1, values[n]);
            }
            statement.execute();
        }
    }
}
