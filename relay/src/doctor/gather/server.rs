//! Reads what is to know about the PostgreSQL server.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio_postgres::Client;

use crate::database::{Session, describe};
use crate::doctor::server::{Prepared, Schema, Server, Transaction};

fn failed(what: &str) -> impl Fn(tokio_postgres::Error) -> String + '_ {
    move |e| format!("{what}: {}", describe(&e))
}

/// Reads the facts. `long` is the age in seconds from which a transaction is
/// worth a word.
pub(in crate::doctor) async fn server(session: &Session, at: &str, long: f64) -> Result<Server, String> {
    let client = &session.client;
    let row = client
        .query_one(
            "SELECT current_user::text, current_setting('server_version_num')::int, pg_is_in_recovery(),
                    coalesce((SELECT s.ssl FROM pg_stat_ssl s WHERE s.pid = pg_backend_pid()), false),
                    coalesce(inet_server_addr() << '127.0.0.0/8' OR inet_server_addr() = '::1', true)",
            &[],
        )
        .await
        .map_err(failed("looking at the connection"))?;
    let (clock_offset, clock_error) = clock(client).await?;
    let schema = match pg_tide_schema::status(client).await {
        Ok(None) => Schema::Missing,
        Ok(Some(status)) => Schema::Found {
            version: status.version,
            release: status.release,
            extension: matches!(status.origin, pg_tide_schema::Origin::Extension(_)),
        },
        Err(error) => Schema::Unusable(error.to_string()),
    };
    let mut server = Server {
        at: at.to_owned(),
        role: row.get(0),
        version: row.get(1),
        in_recovery: row.get(2),
        encrypted: row.get(3),
        local: row.get(4),
        clock_offset,
        clock_error,
        schema,
        lacking: Vec::new(),
        relay_role: false,
        schema_owner: String::new(),
        settings: settings(client).await?,
        connections: 0,
        max_connections: 0,
        own_limit: None,
        transactions: transactions(client, long).await?,
        prepared: prepared(client, long).await?,
        hidden: 0,
    };
    capacity(client, &mut server).await?;
    rights(client, &mut server).await?;
    Ok(server)
}

/// The database's clock less ours, and half the time that asking took.
async fn clock(client: &Client) -> Result<(f64, f64), String> {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0.0, |d| d.as_secs_f64())
    };
    let statement = client
        .prepare("SELECT extract(epoch FROM clock_timestamp())::float8")
        .await
        .map_err(failed("reading the clock"))?;
    let (began, asked) = (now(), Instant::now());
    let row = client
        .query_one(&statement, &[])
        .await
        .map_err(failed("reading the clock"))?;
    let half = asked.elapsed().as_secs_f64() / 2.0;
    let theirs: f64 = row.get(0);
    Ok((theirs - (began + half), half))
}

async fn settings(client: &Client) -> Result<std::collections::BTreeMap<String, String>, String> {
    let rows = client
        .query(
            // As the role has them; our own session has changed some.
            "SELECT name, reset_val FROM pg_settings
              WHERE name IN ('default_transaction_read_only', 'synchronous_commit', 'fsync', 'transaction_timeout',
                             'statement_timeout')",
            &[],
        )
        .await
        .map_err(failed("reading the settings"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn capacity(client: &Client, server: &mut Server) -> Result<(), String> {
    let row = client
        .query_one(
            "SELECT (SELECT sum(numbackends) FROM pg_stat_database)::bigint,
                    current_setting('max_connections')::bigint
                        - current_setting('superuser_reserved_connections')::bigint
                        - coalesce(current_setting('reserved_connections', true), '0')::bigint,
                    (SELECT r.rolconnlimit::bigint
                            - (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid)
                       FROM pg_roles r WHERE r.rolname = current_user AND r.rolconnlimit >= 0),
                    (SELECT d.datconnlimit::bigint - s.numbackends
                       FROM pg_database d JOIN pg_stat_database s ON s.datid = d.oid
                      WHERE d.datname = current_database() AND d.datconnlimit >= 0),
                    (SELECT count(*) FROM pg_stat_activity a
                      WHERE a.backend_xid IS NOT NULL AND a.xact_start IS NULL)",
            &[],
        )
        .await
        .map_err(failed("counting connections"))?;
    server.connections = row.get(0);
    server.max_connections = row.get(1);
    let limits: [Option<i64>; 2] = [row.get(2), row.get(3)];
    server.own_limit = limits.into_iter().flatten().min();
    server.hidden = row.get(4);
    Ok(())
}

/// Those that are open for long and either write or keep this database's
/// vacuum back.
async fn transactions(client: &Client, long: f64) -> Result<Vec<Transaction>, String> {
    let rows = client
        .query(
            "SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8, coalesce(a.application_name, ''),
                    coalesce(a.usename::text, ''), coalesce(a.datname::text, ''), coalesce(a.state, ''),
                    a.backend_xid IS NOT NULL
               FROM pg_stat_activity a
              WHERE a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
                AND (a.datname = current_database() OR a.backend_xid IS NOT NULL)
                AND a.xact_start < clock_timestamp() - make_interval(secs => $1)
              ORDER BY a.xact_start LIMIT 10",
            &[&long],
        )
        .await
        .map_err(failed("looking for open transactions"))?;
    Ok(rows
        .iter()
        .map(|row| Transaction {
            pid: row.get(0),
            seconds: row.get(1),
            application: row.get(2),
            user: row.get(3),
            database: row.get(4),
            state: row.get(5),
            wrote: row.get(6),
        })
        .collect())
}

async fn prepared(client: &Client, long: f64) -> Result<Vec<Prepared>, String> {
    let rows = client
        .query(
            "SELECT p.gid, extract(epoch FROM clock_timestamp() - p.prepared)::float8, p.owner::text
               FROM pg_prepared_xacts p
              WHERE p.prepared < clock_timestamp() - make_interval(secs => $1) ORDER BY p.prepared LIMIT 10",
            &[&long],
        )
        .await
        .map_err(failed("looking for prepared transactions"))?;
    Ok(rows
        .iter()
        .map(|row| Prepared {
            gid: row.get(0),
            seconds: row.get(1),
            owner: row.get(2),
        })
        .collect())
}

/// What role tide_relay may do here and the current role may not. Taken from
/// the catalogue, so that there is no second list of a relay's rights.
async fn rights(client: &Client, server: &mut Server) -> Result<(), String> {
    let what = "looking at the rights";
    let rows = client
        .query(
            "WITH relay AS (SELECT oid FROM pg_roles WHERE rolname = 'tide_relay'),
             wanted AS (
                 SELECT 1 AS place, 'schema tide' AS name, a.privilege_type,
                        has_schema_privilege(n.oid, a.privilege_type) AS has
                   FROM pg_namespace n, aclexplode(n.nspacl) a
                  WHERE n.nspname = 'tide' AND a.grantee = (SELECT oid FROM relay)
                 UNION ALL
                 SELECT 2, 'tide.' || quote_ident(c.relname), a.privilege_type,
                        CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, a.privilege_type)
                             ELSE has_table_privilege(c.oid, a.privilege_type) END
                   FROM pg_class c, aclexplode(c.relacl) a
                  WHERE c.relnamespace = 'tide'::regnamespace AND a.grantee = (SELECT oid FROM relay)
                    AND c.relkind IN ('r', 'p', 'v', 'S')
                 UNION ALL
                 SELECT 3, 'tide.' || quote_ident(p.proname), a.privilege_type,
                        has_function_privilege(p.oid, a.privilege_type)
                   FROM pg_proc p, aclexplode(p.proacl) a
                  WHERE p.pronamespace = 'tide'::regnamespace AND a.grantee = (SELECT oid FROM relay))
             SELECT count(*), coalesce(array_agg(w.privilege_type || ' on ' || w.name ORDER BY w.place, w.name)
                                       FILTER (WHERE NOT w.has), '{}'),
                    (SELECT n.nspowner::regrole::text FROM pg_namespace n WHERE n.nspname = 'tide'),
                    coalesce((SELECT pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n WHERE n.nspname = 'tide'), true)
               FROM wanted w",
            &[],
        )
        .await;
    let rows = match rows {
        // Without schema tide its name cannot be looked up.
        Err(_) if !matches!(server.schema, Schema::Found { .. } | Schema::Unusable(_)) => return Ok(()),
        rows => rows.map_err(failed(what))?,
    };
    let Some(row) = rows.first() else { return Ok(()) };
    let granted: i64 = row.get(0);
    server.relay_role = granted > 0;
    server.schema_owner = row.get::<_, Option<String>>(2).unwrap_or_default();
    let owner: bool = row.get(3);
    server.lacking = if granted > 0 {
        row.get(1)
    } else if owner {
        Vec::new()
    } else {
        vec!["those of the schema's owner".to_owned()]
    };
    Ok(())
}
