//! Reads what is to know about outboxes, inboxes and dead letters.

use std::collections::HashMap;

use tokio_postgres::Client;

use crate::database::describe;
use crate::database::outbox::quote;
use crate::doctor::stores::{DeadLetters, Group, Inbox, Outbox};

fn failed(what: &str) -> impl Fn(tokio_postgres::Error) -> String + '_ {
    move |e| format!("{what}: {}", describe(&e))
}

pub(in crate::doctor) async fn outboxes(client: &Client) -> Result<Vec<Outbox>, String> {
    let mut groups = groups(client).await?;
    // What tide._leaves reads, with the rights of anybody.
    let rows = client
        .query(
            "WITH l AS MATERIALIZED (
                 SELECT o.outbox_id, c.oid, c.relname AS leaf,
                        coalesce((regexp_match(b.bound, 'TO \\(''([^'']+)''\\)'))[1]::timestamptz, 'infinity') AS upper_bound,
                        (regexp_match(b.bound, 'FROM \\(''([^'']+)''\\)'))[1] AS lower_text
                   FROM tide.outbox o
                   JOIN pg_class parent ON parent.relname = o.table_name AND parent.relnamespace = 'tide'::regnamespace
                   JOIN pg_inherits i ON i.inhparent = parent.oid
                   JOIN pg_class c ON c.oid = i.inhrelid
                  CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, c.oid) AS bound) b)
             SELECT o.name, o.enabled, o.retention::text, s.pending_count, coalesce(s.total_bytes, 0)::bigint,
                    p.number, p.bytes, coalesce(extract(epoch FROM s.partitioned_until - clock_timestamp())::float8, 0),
                    extract(epoch FROM o.partition_period)::float8, o.table_name::text,
                    (SELECT min(l.lower_text) FROM l WHERE l.outbox_id = o.outbox_id AND l.upper_bound = 'infinity')
               FROM tide.outbox o
               JOIN tide.outbox_status(NULL) s ON s.outbox_name = o.name
              CROSS JOIN LATERAL (
                    SELECT count(*) AS number, coalesce(sum(pg_total_relation_size(l.oid)), 0)::bigint AS bytes
                      FROM l WHERE l.outbox_id = o.outbox_id AND l.upper_bound <= clock_timestamp() - o.retention
                       AND l.leaf NOT LIKE '%\\_past') p
              ORDER BY o.name",
            &[],
        )
        .await
        .map_err(failed("looking at the outboxes"))?;
    let mut outboxes = Vec::new();
    for row in &rows {
        let name: String = row.get(0);
        let (table, rest): (String, Option<String>) = (row.get(9), row.get(10));
        let rest_used = match rest {
            None => false,
            Some(lower) => {
                let sql = format!(
                    "SELECT EXISTS (SELECT FROM tide.{} m WHERE m.created_at >= $1::text::timestamptz)",
                    quote(&table)
                );
                let row = client
                    .query_one(&sql, &[&lower])
                    .await
                    .map_err(failed("looking beyond the last partition"))?;
                row.get(0)
            }
        };
        outboxes.push(Outbox {
            enabled: row.get(1),
            retention: row.get(2),
            pending: row.get(3),
            bytes: row.get(4),
            groups: groups.remove(&name).unwrap_or_default(),
            passed: row.get(5),
            passed_bytes: row.get(6),
            ahead: row.get(7),
            period: row.get(8),
            rest_used,
            name,
        });
    }
    Ok(outboxes)
}

async fn groups(client: &Client) -> Result<HashMap<String, Vec<Group>>, String> {
    let rows = client
        .query(
            "SELECT l.outbox_name, l.group_name, l.lag, p.name,
                    extract(epoch FROM clock_timestamp() - coalesce(l.last_heartbeat, g.created_at))::float8,
                    l.last_heartbeat IS NULL
               FROM tide.consumer_lag l
               JOIN tide.outbox o ON o.name = l.outbox_name
               JOIN tide.consumer_group g ON g.outbox_id = o.outbox_id AND g.name = l.group_name
               LEFT JOIN tide.pipeline p ON p.group_id = g.group_id
              ORDER BY 1, 2",
            &[],
        )
        .await
        .map_err(failed("looking at the consumer groups"))?;
    let mut groups = HashMap::<String, Vec<Group>>::new();
    for row in &rows {
        groups.entry(row.get(0)).or_default().push(Group {
            name: row.get(1),
            lag: row.get(2),
            pipeline: row.get(3),
            silent: row.get(4),
            never: row.get(5),
        });
    }
    Ok(groups)
}

pub(in crate::doctor) async fn inboxes(client: &Client) -> Result<Vec<Inbox>, String> {
    let rows = client
        .query(
            "SELECT i.inbox_name, i.pending, extract(epoch FROM clock_timestamp() - i.oldest_pending_at)::float8,
                    i.dead_letter
               FROM tide.inbox_status(NULL) i ORDER BY 1",
            &[],
        )
        .await
        .map_err(failed("looking at the inboxes"))?;
    Ok(rows
        .iter()
        .map(|row| Inbox {
            name: row.get(0),
            pending: row.get(1),
            oldest: row.get(2),
            dead: row.get(3),
        })
        .collect())
}

pub(in crate::doctor) async fn dead_letters(client: &Client) -> Result<Vec<DeadLetters>, String> {
    let rows = client
        .query(
            "SELECT d.pipeline, count(*), extract(epoch FROM clock_timestamp() - min(d.created_at))::float8,
                    (array_agg(d.error ORDER BY d.dlq_id DESC))[1]
               FROM tide.dead_letter d WHERE d.resolved_at IS NULL GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await
        .map_err(failed("looking at the dead letters"))?;
    Ok(rows
        .iter()
        .map(|row| DeadLetters {
            pipeline: row.get(0),
            number: row.get(1),
            oldest: row.get(2),
            error: row.get(3),
        })
        .collect())
}
