//! What Pipelines become is what a real PostgreSQL takes: every Pipeline of
//! right.yaml is set by `tide.relay_set_outbox` or `tide.relay_set_inbox`.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use pg_tide_operator::crd::{Direction, Pipeline, Rendered, render};
use tokio_postgres::{Client, Config, NoTls};

const RIGHT: &str = include_str!("manifests/right.yaml");

fn server() -> Config {
    let url = std::env::var("TIDE_PG_URL").unwrap_or_else(|_| {
        panic!(
            "TIDE_PG_URL is not set: this test needs a PostgreSQL and a role with CREATEDB and CREATEROLE.\n\
             Run `e2e/bed up postgres` and `eval \"$(e2e/bed env)\"` first."
        )
    });
    url.parse().unwrap()
}

async fn open(config: &Config) -> Client {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .unwrap_or_else(|e| panic!("cannot connect: {e:?}"));
    tokio::spawn(connection);
    client
}

async fn set(client: &Client, rendered: &Rendered) -> Result<u64, tokio_postgres::Error> {
    let Rendered {
        name,
        connector,
        batch_size,
        enabled,
        relay_group,
        ..
    } = rendered;
    let config = rendered.config.to_string();
    match &rendered.direction {
        Direction::Forward { .. } => {
            let set = "SELECT tide.relay_set_outbox($1, 'orders', $2, $3::text::jsonb, $4, $5, $6)";
            client
                .execute(set, &[name, connector, &config, batch_size, enabled, relay_group])
                .await
        }
        Direction::Reverse {
            max_retries,
            idempotent,
            ..
        } => {
            let set = "SELECT tide.relay_set_inbox($1, 'payments', $2::text::jsonb, $3, $4, $5, $6, $7, $8)";
            let arguments: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
                name,
                &config,
                batch_size,
                connector,
                enabled,
                max_retries,
                idempotent,
                relay_group,
            ];
            client.execute(set, &arguments).await
        }
    }
}

#[tokio::test]
async fn postgresql_takes_every_pipeline() {
    let server = server();
    let database = format!("operator_rendered_{}", std::process::id());
    let admin = open(&server).await;
    admin
        .batch_execute(&format!("CREATE DATABASE {database}"))
        .await
        .unwrap();
    let mut client = open(server.clone().dbname(&database)).await;
    pg_tide_schema::install(&mut client).await.unwrap();
    let ready = "SELECT tide.outbox_create('orders'), tide.create_consumer_group('relay', 'orders'), tide.inbox_create('payments')";
    client.batch_execute(ready).await.unwrap();

    let mut refused = Vec::new();
    let mut taken = 0;
    for text in RIGHT
        .split("\n---\n")
        .filter(|text| text.contains("\nkind: Pipeline\n"))
    {
        let pipeline: Pipeline = serde_saphyr::from_str(text).unwrap();
        let rendered = render(&pipeline).unwrap();
        match set(&client, &rendered).await {
            Ok(_) => taken += 1,
            Err(error) => refused.push(format!("{}: {error:?}", rendered.name)),
        }
    }
    drop(client);
    admin
        .batch_execute(&format!("DROP DATABASE {database} WITH (FORCE)"))
        .await
        .unwrap();
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(taken >= 19, "{taken}");
}
