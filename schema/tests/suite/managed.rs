//! Claims of resources on objects, the rights they give, and settings that
//! change.

use crate::support::{Database, Session};

/// A claim by resource `orders` of namespace `shop` in cluster `c1`, unless
/// said otherwise.
fn claim(kind: &str, object: &str, cluster: &str, resource: &str, adopt: bool) -> String {
    format!(
        "SELECT tide.object_claim('{kind}', '{object}', '{cluster}', 'shop', '{resource}', 'u1', 'Retain', {adopt})"
    )
}

#[tokio::test]
async fn an_object_belongs_to_one_resource() {
    let (_database, session) = Database::installed().await;
    for (kind, create) in [
        ("outbox", "SELECT tide.outbox_create('a')"),
        ("inbox", "SELECT tide.inbox_create('a')"),
        (
            "pipeline",
            "SELECT tide.relay_set_outbox('a', 'a', 'kafka', '{\"brokers\": \"b:1\", \"topic\": \"t\"}')",
        ),
    ] {
        let own = claim(kind, "a", "c1", "a", false);
        assert_eq!(session.row(&own).await, "new");
        assert_eq!(session.row(&own).await, "held", "before the object is made");
        session.run(create).await;
        assert_eq!(session.row(&own).await, "held");
        let word = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
        for adopt in [false, true] {
            session
                .refuses(
                    &claim(kind, "a", "c1", "b", adopt),
                    "TD011",
                    &[
                        &format!(
                            "{kind} \"a\" is managed by {word} \"a\" in namespace \"shop\" of this cluster"
                        ),
                        "delete the other",
                    ],
                )
                .await;
            session
                .refuses(
                    &claim(kind, "a", "c2", "a", adopt),
                    "TD011",
                    &[
                        "of another cluster",
                        &format!("tide.object_release('{kind}', 'a', 'c1', 'shop', 'a')"),
                    ],
                )
                .await;
        }
        let release =
            |resource: &str| format!("SELECT tide.object_release('{kind}', 'a', 'c1', 'shop', '{resource}')");
        assert_eq!(session.row(&release("b")).await, "f", "only one's own");
        assert_eq!(session.row(&release("a")).await, "t");
        assert_eq!(session.row(&release("a")).await, "f");
        // What keeps messages is remembered: nobody's it would be only without the row.
        session
            .run("DELETE FROM tide.managed_object WHERE kind <> 'pipeline'")
            .await;
        session
            .refuses(
                &own,
                "TD010",
                &[
                    &format!("{kind} \"a\" exists already and no resource manages it"),
                    "adoptionPolicy: Adopt",
                ],
            )
            .await;
        assert_eq!(
            session.row("SELECT count(*) FROM tide.managed_objects()").await,
            "0"
        );
        assert_eq!(session.row(&claim(kind, "a", "c1", "a", true)).await, "adopted");
        assert_eq!(session.row(&claim(kind, "a", "c1", "a", true)).await, "held");
        session.run(&release("a")).await;
    }
}

#[tokio::test]
async fn a_resource_that_was_made_again_takes_its_object_back() {
    let (_database, session) = Database::installed().await;
    session.run(&claim("outbox", "a", "c1", "a", false)).await;
    session.run(&claim("inbox", "b", "c2", "b", false)).await;
    let roles = |resource: &str, roles: &str| {
        format!("SELECT tide.object_set_roles('outbox', 'a', 'c1', 'shop', '{resource}', '{roles}')")
    };
    assert_eq!(
        session.row(&roles("a", "{\"publish\": [\"shop_app\"]}")).await,
        "t"
    );
    assert_eq!(
        session.row(&roles("a", "{\"publish\": [\"shop_app\"]}")).await,
        "f"
    );
    assert_eq!(session.row(&roles("other", "{}")).await, "f");
    session
        .refuses(&roles("a", "[]"), "22023", &["a JSON array"])
        .await;
    assert_eq!(
        session
            .row("SELECT tide.object_claim('outbox', 'a', 'c1', 'shop', 'a', 'u2', 'Delete', false)")
            .await,
        "held"
    );
    assert_eq!(
        session
            .rows("SELECT kind, object, cluster, namespace, resource, uid, reclaim, roles FROM tide.managed_objects('c1')")
            .await,
        ["outbox|a|c1|shop|a|u2|Delete|{\"publish\": [\"shop_app\"]}"]
    );
    assert_eq!(
        session.row("SELECT count(*) FROM tide.managed_objects()").await,
        "2"
    );
}

#[tokio::test]
async fn what_is_kept_goes_back_to_its_resource_and_to_others_that_adopt_it() {
    let (_database, session) = Database::installed().await;
    for kind in ["outbox", "inbox"] {
        let call = |function: &str, rest: &str| {
            format!("SELECT tide.{function}('{kind}', 'a', 'c1', 'shop', 'a'{rest})")
        };
        let kept = format!(
            "SELECT released_at IS NOT NULL, roles FROM tide.managed_objects() WHERE kind = '{kind}'"
        );
        let own = claim(kind, "a", "c1", "a", false);
        assert_eq!(session.row(&own).await, "new");
        session.run(&format!("SELECT tide.{kind}_create('a')")).await;
        session
            .run(&call("object_set_roles", ", '{\"publish\": [\"app\"]}'"))
            .await;
        assert_eq!(session.row(&call("object_release", "")).await, "t");
        assert_eq!(
            session.row(&call("object_release", "")).await,
            "f",
            "it is released"
        );
        assert_eq!(session.row(&kept).await, "t|{\"publish\": [\"app\"]}");

        for (cluster, resource, of) in [("c1", "b", "this cluster"), ("c2", "a", "another cluster")] {
            let word = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
            let said = format!("it was kept when {word} \"a\" in namespace \"shop\" of {of} was deleted");
            session
                .refuses(
                    &claim(kind, "a", cluster, resource, false),
                    "TD010",
                    &[&said, "adoptionPolicy: Adopt"],
                )
                .await;
        }
        assert_eq!(session.row(&own).await, "returned");
        assert_eq!(session.row(&own).await, "held");
        assert_eq!(session.row(&kept).await, "f|{\"publish\": [\"app\"]}");

        // Another resource adopts it, without the rights that this one gave.
        session.run(&call("object_release", "")).await;
        assert_eq!(session.row(&claim(kind, "a", "c2", "b", true)).await, "adopted");
        assert_eq!(session.row(&kept).await, "f|{}");
        session
            .refuses(&own, "TD011", &["is managed by", "of another cluster"])
            .await;

        // It is forgotten when it is dropped, by function or by hand.
        let release = format!("SELECT tide.object_release('{kind}', 'a', 'c2', 'shop', 'b')");
        session.run(&release).await;
        session.run(&format!("SELECT tide.{kind}_drop('a')")).await;
        assert_eq!(
            session.row("SELECT count(*) FROM tide.managed_objects()").await,
            "0"
        );
        assert_eq!(session.row(&own).await, "new");
        session.run(&format!("SELECT tide.{kind}_create('a')")).await;
        session.run(&call("object_release", "")).await;
        session
            .run(&format!("DROP TABLE tide.a_{kind}; DELETE FROM tide.{kind}"))
            .await;
        assert_eq!(session.row(&claim(kind, "a", "c1", "b", false)).await, "new");
        session.run("DELETE FROM tide.managed_object").await;
    }
}

#[tokio::test]
async fn wrong_claims_are_refused_with_a_hint() {
    let (_database, session) = Database::installed().await;
    for (arguments, state, said) in [
        (
            "'topic', 'a', 'c', 'n', 'r', 'u', 'Retain', true",
            "22023",
            "p_kind",
        ),
        (
            "'outbox', '', 'c', 'n', 'r', 'u', 'Retain', true",
            "42602",
            "1 to 63",
        ),
        (
            "'inbox', 'a', NULL, 'n', 'r', 'u', 'Retain', true",
            "22004",
            "p_cluster",
        ),
        (
            "'inbox', 'a', 'c', 'n', 'r', NULL, 'Retain', true",
            "22004",
            "p_uid",
        ),
        (
            "'inbox', 'a', 'c', 'n', 'r', 'u', 'Retain', NULL",
            "22004",
            "p_adopt",
        ),
        (
            "'inbox', 'a', 'c', 'n', 'r', 'u', 'Keep', true",
            "22023",
            "'Delete'",
        ),
    ] {
        session
            .refuses(&format!("SELECT tide.object_claim({arguments})"), state, &[said])
            .await;
    }
}

/// Of two that claim at once, the second waits for the first.
async fn second_of_two(first_ends_with: &str) -> Result<String, String> {
    let (database, first) = Database::installed().await;
    let second = database.session().await;
    first.run("BEGIN").await;
    assert_eq!(first.row(&claim("outbox", "a", "c1", "one", false)).await, "new");
    first.run("SELECT tide.outbox_create('a')").await;
    let claiming = tokio::spawn(async move {
        second
            .0
            .query_one(&claim("outbox", "a", "c2", "two", false), &[])
            .await
            .map(|row| row.get(0))
            .map_err(|error| error.as_db_error().unwrap().code().code().to_owned())
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%object_claim%two%'";
    let other = database.session().await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while other.number(waiting).await == 0 {
        assert!(std::time::Instant::now() < deadline, "the second did not wait");
    }
    first.run(first_ends_with).await;
    claiming.await.unwrap()
}

#[tokio::test]
async fn of_two_claims_at_once_one_wins() {
    assert_eq!(second_of_two("COMMIT").await, Err("TD011".to_owned()));
    assert_eq!(second_of_two("ROLLBACK").await, Ok("new".to_owned()));
}

async fn held(session: &Session) -> Vec<String> {
    session
        .rows("SELECT kind, object, \"right\", role FROM tide.granted_roles()")
        .await
}

#[tokio::test]
async fn a_right_is_held_while_all_that_it_needs_is_there() {
    let (database, session) = Database::installed().await;
    let role = database.role("").await;
    session
        .run("SELECT tide.outbox_create('o'), tide.outbox_create('other'), tide.inbox_create('i')")
        .await;
    assert!(held(&session).await.is_empty(), "nobody but the owner and tide_*");
    let all = [
        format!("inbox|i|process|{role}"),
        format!("outbox|o|consume|{role}"),
        format!("outbox|o|publish|{role}"),
    ];
    let grants = [
        (
            "process",
            format!("SELECT tide.inbox_grant_process('i', '{role}')"),
        ),
        (
            "consume",
            format!("SELECT tide.outbox_grant_consume('o', '{role}')"),
        ),
        (
            "publish",
            format!("SELECT tide.outbox_grant_publish('o', '{role}')"),
        ),
    ];
    for (_, grant) in &grants {
        session.run(grant).await;
    }
    assert_eq!(held(&session).await, all);
    assert_eq!(
        session
            .rows("SELECT \"right\", role FROM tide.object_grants('outbox', 'o')")
            .await,
        [format!("consume|{role}"), format!("publish|{role}")]
    );

    // Each part of each right, as tide._grant_publishing and its like give it.
    for (right, parts) in [
        (
            "publish",
            &[
                "INSERT (payload) ON tide.o_outbox",
                "USAGE ON SEQUENCE tide.message_id_seq",
                "SELECT (enabled) ON tide.outbox",
                "INSERT (outbox) ON tide.outbox_message",
            ][..],
        ),
        ("consume", &["SELECT ON tide.o_outbox"][..]),
        (
            "process",
            &[
                "SELECT ON tide.i_inbox",
                "UPDATE (claim) ON tide.i_inbox",
                "SELECT ON tide.inbox",
            ][..],
        ),
    ] {
        let (_, grant) = grants.iter().find(|(of, _)| *of == right).unwrap();
        let functions = session
            .rows(&format!("SELECT unnest(tide._functions_of('{right}'))"))
            .await;
        assert!(functions.len() >= 4);
        let functions = functions.iter().map(|f| format!("EXECUTE ON FUNCTION {f}"));
        for part in parts.iter().map(ToString::to_string).chain(functions) {
            session.run(&format!("REVOKE {part} FROM {role}")).await;
            let left = held(&session).await;
            assert!(
                !left.iter().any(|l| l.contains(&format!("|{right}|"))),
                "{part}: {left:?}"
            );
            for (_, grant) in &grants {
                session.run(grant).await;
            }
        }
        session.run(grant).await;
        assert_eq!(held(&session).await, all);
    }
    session
        .run(&format!("REVOKE USAGE ON SCHEMA tide FROM {role}"))
        .await;
    assert!(held(&session).await.is_empty());
    session.run(&grants[0].1).await;
    session
        .run(&format!(
            "SELECT tide.outbox_revoke_publish('o', '{role}'), tide.outbox_revoke_consume('o', '{role}'), tide.inbox_revoke_process('i', '{role}')"
        ))
        .await;
    assert!(held(&session).await.is_empty());
    // On the whole table, by hand.
    session
        .run(&format!("GRANT INSERT ON tide.other_outbox TO {role}"))
        .await;
    assert_eq!(held(&session).await, [format!("outbox|other|publish|{role}")]);
}

#[tokio::test]
async fn settings_of_an_inbox_change_by_the_rules_of_its_making() {
    let (_database, session) = Database::installed().await;
    session.run("SELECT tide.inbox_create('i', 3, 72, 0)").await;
    let shown = "SELECT max_retries, processed_retention, dlq_retention FROM tide.inbox_list()";
    let version = "SELECT version FROM tide.config_state";
    let before = session.number(version).await;
    assert_eq!(session.row("SELECT tide.inbox_set('i', 3, 72, 0)").await, "f");
    assert_eq!(session.number(version).await, before, "relays are left in peace");
    assert_eq!(session.row("SELECT tide.inbox_set('i', 5, 24, 48)").await, "t");
    assert_eq!(session.row(shown).await, "5|24:00:00|48:00:00");
    assert_eq!(session.row("SELECT tide.inbox_set('i', 5, 24, 0)").await, "t");
    assert_eq!(session.row(shown).await, "5|24:00:00|-");
    for (arguments, said) in [
        ("-1, 24, 0", "max_retries"),
        ("NULL, 24, 0", "max_retries"),
        ("5, 876001, 0", "processed retention"),
        ("5, NULL, 0", "processed retention"),
        ("5, 24, -1", "dead-letter retention"),
        ("5, 24, NULL", "dead-letter retention"),
    ] {
        for function in ["inbox_set", "inbox_create", "inbox_repair"] {
            session
                .refuses(
                    &format!("SELECT tide.{function}('i', {arguments})"),
                    "22023",
                    &[said],
                )
                .await;
        }
    }
    session
        .refuses(
            "SELECT tide.inbox_set('ii', 5, 24, 0)",
            "42704",
            &["Did you mean \"i\""],
        )
        .await;
}
