//! docs/guide/operator-database-role.md: what its SQL gives suffices for all
//! that the operator does, and for no more.

use pg_tide_schema::{VERSION, install, upgrade};

use crate::guides::blocks;
use crate::support::{Database, Session, unique};
use crate::upgrade::EARLIER;

/// All that the operator does in SQL, save installing and upgrading.
async fn operate(operator: &Session, by_hand: &Session, app: &str) {
    let claim = |kind: &str, object: &str| {
        format!(
            "SELECT tide.object_claim('{kind}', '{object}', 'c', 'shop', '{object}', 'u', 'Retain', false)"
        )
    };
    for (kind, object) in [
        ("outbox", "events"),
        ("inbox", "answers"),
        ("pipeline", "events-out"),
    ] {
        assert_eq!(operator.row(&claim(kind, object)).await, "new");
    }
    operator
        .run(&format!(
            "LISTEN tide_config;
             SELECT tide.outbox_create('events', 72), tide.inbox_create('answers');
             SELECT tide.create_consumer_group('g', 'events', p_if_not_exists => true);
             SELECT tide.relay_set_outbox('events-out', 'events', 'kafka',
                 '{{\"brokers\": \"b:1\", \"topic\": \"t\", \"consumer_group\": \"g\"}}');
             SELECT tide.outbox_grant_publish('events', '{app}'), tide.outbox_grant_consume('events', '{app}'),
                    tide.inbox_grant_process('answers', '{app}');
             SELECT tide.object_set_roles('outbox', 'events', 'c', 'shop', 'events', '{{\"publish\": [\"{app}\"]}}');
             SELECT tide.outbox_set_retention('events', 24), tide.inbox_set('answers', 5, 24, 0);
             SELECT tide.outbox_disable('events'), tide.outbox_enable('events');
             SELECT tide.relay_disable('events-out'), tide.relay_enable('events-out')"
        ))
        .await;
    for (kind, right) in [("outbox", "consume"), ("outbox", "publish"), ("inbox", "process")] {
        let object = if kind == "outbox" { "events" } else { "answers" };
        assert!(
            operator
                .rows(&format!(
                    "SELECT \"right\" || ' ' || role FROM tide.object_grants('{kind}', '{object}')"
                ))
                .await
                .contains(&format!("{right} {app}"))
        );
    }
    by_hand
        .run("DROP TABLE tide.events_outbox; DELETE FROM tide.inbox_counter c USING tide.inbox i WHERE i.inbox_id = c.inbox_id AND i.name = 'answers'; REVOKE ALL ON tide.answers_inbox FROM tide_relay")
        .await;
    assert_eq!(
        operator
            .rows("SELECT * FROM tide.outbox_faults() UNION ALL SELECT * FROM tide.inbox_faults()")
            .await
            .len(),
        3
    );
    operator
        .run("SELECT tide.outbox_repair('events', 24), tide.inbox_repair('answers', 5, 24, 0)")
        .await;
    for seen in [
        "tide.outbox_list()",
        "tide.outbox_status()",
        "tide.inbox_list()",
        "tide.inbox_status()",
        "tide.relay_list_configs()",
        "tide.relay_pipeline_status",
        "tide.consumer_group",
        "tide.consumer_lag",
        "tide.relay_dlq_list()",
        "tide.retention_status",
        "tide.managed_objects()",
        "tide.managed_object",
        "tide.granted_roles()",
        "tide.schema_version",
        "tide.config_state",
        "tide.maintain_outboxes()",
    ] {
        operator.run(&format!("SELECT * FROM {seen}")).await;
    }
    operator
        .run(&format!(
            "SELECT tide.relay_delete('events-out'), tide.object_release('pipeline', 'events-out', 'c', 'shop', 'events-out');
             SELECT tide.drop_consumer_group('g', 'events');
             SELECT tide.inbox_revoke_process('answers', '{app}');
             SELECT tide.outbox_drop('events'), tide.inbox_drop('answers');
             SELECT tide.object_release('outbox', 'events', 'c', 'shop', 'events'),
                    tide.object_release('inbox', 'answers', 'c', 'shop', 'answers')"
        ))
        .await;
    assert_eq!(
        operator.row("SELECT count(*) FROM tide.managed_objects()").await,
        "0"
    );
}

async fn assert_forbidden(session: &Session, statements: &[&str]) {
    for sql in statements {
        let error = session.error(sql).await;
        assert_eq!(error.code().code(), "42501", "{sql}\n{error:?}");
    }
}

const BEYOND: &[&str] = &[
    "SELECT * FROM public.customers",
    "DELETE FROM public.customers",
    "DROP TABLE public.customers",
    "CREATE ROLE tide_test_never",
    "SELECT pg_read_file('postgresql.conf')",
    "ALTER SYSTEM SET work_mem = '1GB'",
];

/// What an application may not.
const OF_THE_OPERATOR: &[&str] = &[
    "SELECT tide.object_claim('outbox', 'orders', 'c', 'n', 'r', 'u', 'Delete', true)",
    "SELECT tide.object_release('outbox', 'orders', 'c', 'n', 'r')",
    "SELECT tide.object_set_roles('outbox', 'orders', 'c', 'n', 'r', '{}')",
    "SELECT * FROM tide.managed_objects()",
    "SELECT * FROM tide.managed_object",
    "SELECT tide.outbox_repair('orders', 24)",
    "SELECT tide.inbox_repair('payments', 3, 72, 0)",
    "SELECT tide.outbox_faults()",
    "SELECT tide.inbox_faults()",
    "SELECT tide.outbox_set_retention('orders', 24)",
    "SELECT tide.inbox_set('payments', 3, 72, 0)",
    "SELECT * FROM tide.granted_roles()",
    "SELECT * FROM tide.object_grants('outbox', 'orders')",
];

/// The page's statements, with the names of this test.
struct Page {
    blocks: Vec<String>,
    operator: String,
    app: String,
}

impl Page {
    async fn read(database: &Database) -> Self {
        let (operator, app) = (unique("pgtide_operator"), database.role("").await);
        database.knows_role(&operator);
        let own = |block: String| {
            block
                .replace("pgtide_operator", &operator)
                .replace("shop_app", &app)
                .replace("DATABASE shop ", &format!("DATABASE {} ", database.name))
                .replace("'change me'", "'x'")
        };
        Self {
            blocks: blocks("operator-database-role").into_iter().map(own).collect(),
            operator,
            app,
        }
    }

    /// The block that begins so.
    fn block(&self, begin: &str) -> &str {
        let found = self.blocks.iter().find(|block| block.starts_with(begin));
        found.unwrap_or_else(|| panic!("no block begins with {begin}: {:?}", self.blocks))
    }
}

async fn database() -> (Database, Session, Page) {
    let database = Database::empty().await;
    let owner = database.session().await;
    owner
        .run("CREATE TABLE public.customers (name text); REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC")
        .await;
    let page = Page::read(&database).await;
    assert_eq!(page.blocks.len(), 5);
    owner.run(page.block("CREATE ROLE pgtide_operator")).await;
    owner
        .run(&format!("GRANT {} TO CURRENT_USER", page.operator))
        .await;
    (database, owner, page)
}

#[tokio::test]
async fn the_owner_of_the_schema_does_all_that_the_operator_does_and_no_more() {
    let (database, owner, page) = database().await;
    let mut operator = database.session_of(&page.operator).await;
    install(&mut operator.0).await.unwrap_or_else(|e| panic!("{e:?}"));
    owner.run(page.block("REVOKE CREATE")).await;
    // The four roles are there on this server, as if the page had made them.
    for role in ["tide_admin", "tide_publisher", "tide_relay", "tide_reader"] {
        assert!(
            page.block("CREATE ROLE tide_admin")
                .contains(&format!("CREATE ROLE {role} NOLOGIN;"))
        );
        assert_eq!(
            operator
                .row(&format!("SELECT has_schema_privilege('{role}', 'tide', 'USAGE')"))
                .await,
            "t"
        );
    }
    let by_hand = database.session_of(&page.operator).await;
    operate(&operator, &by_hand, &page.app).await;
    assert_forbidden(&operator, BEYOND).await;
    assert_forbidden(
        &operator,
        &[&format!(
            "SELECT pg_terminate_backend({})",
            owner.row("SELECT pg_backend_pid()").await
        )],
    )
    .await;

    operator
        .run("SELECT tide.outbox_create('orders'), tide.inbox_create('payments')")
        .await;
    operator.run(page.block("SELECT tide.outbox_grant_publish")).await;
    let app = database.session_of(&page.app).await;
    app.run("SELECT tide.outbox_publish('orders', '1')").await;
    assert_forbidden(&app, OF_THE_OPERATOR).await;
}

#[tokio::test]
async fn the_owner_of_an_earlier_schema_upgrades_it() {
    for (sql, _) in EARLIER {
        let (database, owner, page) = database().await;
        let mut operator = database.session_of(&page.operator).await;
        operator.run(sql).await;
        owner.run(page.block("REVOKE CREATE")).await;
        operator
            .run("SELECT tide.outbox_create('orders'), tide.inbox_create('payments')")
            .await;
        let done = upgrade(&mut operator.0).await.unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(done.to, VERSION);
        assert!(
            operator
                .rows("SELECT * FROM tide.outbox_faults() UNION ALL SELECT * FROM tide.inbox_faults()")
                .await
                .is_empty()
        );
        let by_hand = database.session_of(&page.operator).await;
        operate(&operator, &by_hand, &page.app).await;
    }
}

#[tokio::test]
async fn a_member_of_tide_admin_does_all_but_install_and_upgrade() {
    let (database, mut owner, page) = database().await;
    owner.run(EARLIER[0].0).await;
    owner.run(page.block("GRANT tide_admin")).await;
    let mut operator = database.session_of(&page.operator).await;
    let refused = upgrade(&mut operator.0).await.unwrap_err().to_string();
    assert!(refused.contains("may not upgrade schema \"tide\""), "{refused}");
    upgrade(&mut owner.0).await.unwrap_or_else(|e| panic!("{e:?}"));

    operate(&operator, &owner, &page.app).await;
    assert_forbidden(&operator, BEYOND).await;
    owner.run("SELECT tide.outbox_create('orders')").await;
    assert_forbidden(
        &operator,
        &[
            "DROP TABLE tide.orders_outbox",
            "UPDATE tide.managed_object SET cluster = 'mine'",
            "DELETE FROM tide.outbox",
            "INSERT INTO tide.orders_outbox (payload) VALUES ('1')",
            "ALTER FUNCTION tide.outbox_list() SET work_mem = '1MB'",
        ],
    )
    .await;
}
