//! Who may do what: every function, table, view and sequence of the schema is
//! tried by every kind of role. docs/reference/rights.md states what must come
//! out; an object that is not there fails the test.

mod calls;
mod page;

use std::collections::BTreeMap;

use crate::support::{Database, Session};
use calls::{CALLS, SCENE, STATEMENTS};

/// The kinds of roles, as the columns of the page are headed, and how one comes
/// about: what it is a member of, or what it was granted.
const ROLES: [(&str, &str); 9] = [
    ("anybody", ""),
    ("publish", "outbox_grant_publish('orders', '@role')"),
    ("consume", "outbox_grant_consume('orders', '@role')"),
    ("process", "inbox_grant_process('payments', '@role')"),
    ("feed", "inbox_grant_feed('payments', '@role')"),
    ("`tide_publisher`", "IN ROLE tide_publisher"),
    ("`tide_reader`", "IN ROLE tide_reader"),
    ("`tide_relay`", "IN ROLE tide_relay"),
    ("`tide_admin`", "IN ROLE tide_admin"),
];

/// Row of the page, and what each kind of role may do there.
type Rights = BTreeMap<String, Vec<String>>;

/// Said as well when something cannot be created in it.
const NO_SCHEMA: &str = "permission denied for schema tide";

/// Something to try.
struct Attempt {
    row: String,
    /// What it is when it may be done: `yes`, or a verb.
    right: &'static str,
    /// The column that it is about.
    column: Option<String>,
    sql: String,
    refusal: Refusal,
}

/// When an error counts as a refusal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// Whenever a right is missing; anything else must not happen.
    Any,
    /// The right to the function itself is missing. It may go wrong in other
    /// ways: it is called with nulls.
    OfFunction,
    /// The right to the relation itself is missing. It may go wrong in other
    /// ways: by its constraints, say.
    OfRelation,
}

/// What became of an attempt: SQLSTATE and message, empty when it succeeded.
struct Came {
    state: String,
    message: String,
}

impl Attempt {
    fn may(&self, came: &Came, sees_schema: bool) -> bool {
        let refused = came.state == "42501";
        match self.refusal {
            Refusal::Any => {
                assert!(
                    refused || came.state.is_empty(),
                    "{}\n{} {}",
                    self.sql,
                    came.state,
                    came.message
                );
                !refused
            }
            // Its body may come upon another function.
            Refusal::OfFunction => {
                let name = self
                    .row
                    .trim_start_matches('`')
                    .split('(')
                    .next()
                    .unwrap_or_default();
                let denied = format!("permission denied for function {name}");
                !(refused && (came.message == denied || !sees_schema && came.message == NO_SCHEMA))
            }
            // Not to be done by anybody: writing to a view.
            Refusal::OfRelation if came.state == "55000" => false,
            Refusal::OfRelation => !(refused && came.message.starts_with("permission denied for ")),
        }
    }
}

/// Runs each statement, undoes it, and tells what became of it.
const TRY: &str = "CREATE FUNCTION pg_temp.try(p_statements text[]) RETURNS TABLE (state text, message text)
    LANGUAGE plpgsql AS $$
    DECLARE
        v_statement text;
    BEGIN
        FOREACH v_statement IN ARRAY p_statements LOOP
            BEGIN
                EXECUTE v_statement;
                RAISE EXCEPTION 'undone' USING ERRCODE = 'TD999';
            EXCEPTION WHEN OTHERS THEN
                state := CASE SQLSTATE WHEN 'TD999' THEN '' ELSE SQLSTATE END;
                message := SQLERRM;
            END;
            RETURN NEXT;
        END LOOP;
    END $$";

async fn attempt(session: &Session, attempts: &[Attempt]) -> Vec<Came> {
    session.run(TRY).await;
    let statements: Vec<&str> = attempts.iter().map(|a| a.sql.as_str()).collect();
    let rows = session
        .query("SELECT state, message FROM pg_temp.try($1)", &[&statements])
        .await
        .unwrap_or_else(|e| panic!("{e:?}"));
    rows.iter()
        .map(|row| Came {
            state: row.get(0),
            message: row.get(1),
        })
        .collect()
}

/// The scene, with what the owner has taken there in place of the `@` names.
struct Scene {
    taken: BTreeMap<&'static str, [String; 2]>,
}

impl Scene {
    async fn set(owner: &Session, role: &str) -> Self {
        owner.run(SCENE).await;
        let mut taken = BTreeMap::new();
        taken.insert("@role", [role.to_owned(), role.to_owned()]);
        taken.insert("@outbox", ["orders".to_owned(), "returns".to_owned()]);
        taken.insert("@inbox", ["payments".to_owned(), "refunds".to_owned()]);
        for (name, sql) in [
            (
                "@lease",
                "SELECT lease FROM tide.poll_outbox('leased', '@outbox', 1, '1 hour') LIMIT 1",
            ),
            (
                "@claim",
                "SELECT claim FROM tide.inbox_claim('@inbox', 1, '1 hour')",
            ),
            (
                "@feed",
                "SELECT feed_id FROM tide._inbox_feed_open('@inbox', 7, 'shop', 'p', 1, 5)",
            ),
            (
                "@session",
                "SELECT session FROM tide.inbox_feed WHERE feed_id = @feed",
            ),
        ] {
            let scene = Self { taken };
            let both = [
                owner.row(&scene.fill(sql, 0)).await,
                owner.row(&scene.fill(sql, 1)).await,
            ];
            taken = scene.taken;
            taken.insert(name, both);
        }
        Self { taken }
    }

    fn fill(&self, sql: &str, which: usize) -> String {
        self.taken.iter().fold(sql.to_owned(), |sql, (name, both)| {
            sql.replace(name, &both[which])
        })
    }

    /// The same on an object that the roles have a right on, and on another,
    /// where it is about one.
    fn both(&self, row: &str, sql: &str) -> Vec<Attempt> {
        let attempt = |row: String, which| Attempt {
            row,
            right: "yes",
            column: None,
            sql: self.fill(sql, which),
            refusal: Refusal::Any,
        };
        if ["@outbox", "@inbox", "@feed"]
            .iter()
            .any(|name| sql.contains(name))
        {
            vec![
                attempt(format!("{row}, its own"), 0),
                attempt(format!("{row}, another"), 1),
            ]
        } else {
            vec![attempt(row.to_owned(), 0)]
        }
    }
}

/// Every function of the schema, those of triggers as well: signature and a call
/// with nulls. Behind a barrier, or the planner would answer for a strict
/// function by itself.
const FUNCTIONS: &str = "
    SELECT p.proname || '(' || coalesce(string_agg(a.type, ', ' ORDER BY a.n), '') || ')',
           'SELECT tide.' || p.proname || '('
           || coalesce(string_agg(CASE WHEN p.provariadic <> 0 AND a.n = p.pronargs THEN 'VARIADIC ' ELSE '' END || 'v.a' || a.n,
                                  ', ' ORDER BY a.n), '')
           || ') FROM (SELECT ' || coalesce(string_agg('NULL::' || a.type || ' AS a' || a.n, ', '), '1') || ' OFFSET 0) AS v'
      FROM pg_proc p
      LEFT JOIN LATERAL (SELECT format_type(t.type, NULL) AS type, t.n
                           FROM unnest(p.proargtypes) WITH ORDINALITY AS t(type, n)) a ON true
     WHERE p.pronamespace = 'tide'::regnamespace
     GROUP BY p.oid ORDER BY 1";

async fn functions(owner: &Session, scene: &Scene) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut called = 0;
    for line in owner.rows(FUNCTIONS).await {
        let (signature, with_nulls) = line.split_once('|').unwrap();
        let row = format!("`{signature}`");
        if let Some((_, call)) = CALLS.iter().find(|(known, _)| *known == signature) {
            attempts.extend(scene.both(&row, &format!("SELECT tide.{call}")));
            called += 1;
        } else {
            assert!(signature.starts_with('_'), "no call of {signature} in calls.rs");
            attempts.push(Attempt {
                row,
                right: "yes",
                column: None,
                sql: with_nulls.to_owned(),
                refusal: Refusal::OfFunction,
            });
        }
    }
    assert_eq!(
        called,
        CALLS.len(),
        "calls.rs has calls of functions that are gone"
    );
    attempts
}

/// Every relation and its columns. Partitions of an outbox go by its name; what
/// is there only to be dropped is like the others.
const RELATIONS: &str = "
    SELECT DISTINCT ON (1, a.attnum) CASE WHEN o.name IS NULL THEN '`' || c.relname || '`' ELSE 'partitions of `' || o.table_name || '`' END,
           c.relkind, quote_ident(c.relname), quote_ident(a.attname)
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
      LEFT JOIN tide.outbox o ON i.inhparent = format('tide.%I', o.table_name)::regclass
     WHERE c.relnamespace = 'tide'::regnamespace AND c.relkind NOT IN ('i', 'I') AND c.relname NOT LIKE 'spare\\_%'
       AND coalesce(o.name, '') <> 'spare'
     ORDER BY 1, a.attnum, c.relname";

async fn relations(owner: &Session) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut whole = String::new();
    for line in owner.rows(RELATIONS).await {
        let fields: Vec<&str> = line.split('|').collect();
        let [row, kind, relation, column] = fields[..] else {
            panic!("{line}");
        };
        let mut add = |right, column: Option<&str>, sql: String| {
            attempts.push(Attempt {
                row: row.to_owned(),
                right,
                column: column.map(str::to_owned),
                sql,
                refusal: Refusal::OfRelation,
            });
        };
        let first = whole != row;
        row.clone_into(&mut whole);
        if kind == "S" {
            if first {
                add("read", None, format!("SELECT last_value FROM tide.{relation}"));
                add("draw", None, format!("SELECT nextval('tide.{relation}')"));
                add(
                    "set",
                    None,
                    format!("SELECT setval('tide.{relation}', 1000, false)"),
                );
            }
            continue;
        }
        add(
            "read",
            Some(column),
            format!("SELECT {column} FROM tide.{relation} LIMIT 1"),
        );
        add(
            "insert",
            Some(column),
            format!("INSERT INTO tide.{relation} ({column}) VALUES (DEFAULT)"),
        );
        add(
            "update",
            Some(column),
            format!("UPDATE tide.{relation} SET {column} = DEFAULT WHERE false"),
        );
        if first {
            add("delete", None, format!("DELETE FROM tide.{relation} WHERE false"));
            if kind != "v" {
                add("truncate", None, format!("TRUNCATE tide.{relation}"));
            }
        }
    }
    attempts
}

/// What a role may do, in the words of the page: verbs, with the columns when
/// not all are open to it.
fn cell(attempts: &[(&Attempt, bool)]) -> String {
    let mut rights: Vec<&str> = attempts.iter().map(|(a, _)| a.right).collect();
    rights.dedup();
    let mut seen = Vec::new();
    rights.retain(|right| {
        !seen.contains(right) && {
            seen.push(right);
            true
        }
    });
    let open = rights.into_iter().filter_map(|right| {
        let of_it = attempts.iter().filter(|(a, _)| a.right == right);
        let may: Vec<&str> = of_it
            .clone()
            .filter(|(_, may)| *may)
            .map(|(a, _)| a.column.as_deref().unwrap_or(""))
            .collect();
        match may.len() {
            0 => None,
            n if n == of_it.count() => Some(right.to_owned()),
            _ => Some(format!("{right} ({})", may.join(", "))),
        }
    });
    open.collect::<Vec<_>>().join(", ")
}

/// What came of each attempt, by row of the page; in the order of [`ROLES`].
fn rights(attempts: &[Attempt], came: &[Vec<Came>]) -> Rights {
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, attempt) in attempts.iter().enumerate() {
        rows.entry(&attempt.row).or_default().push(n);
    }
    let of_role = |row: &[usize], role: &Vec<Came>| {
        // It comes to the rights on a table only then.
        let sees_schema = role
            .iter()
            .any(|came| came.message.starts_with("permission denied for table"));
        let tried: Vec<(&Attempt, bool)> = row
            .iter()
            .map(|n| (&attempts[*n], attempts[*n].may(&role[*n], sees_schema)))
            .collect();
        cell(&tried)
    };
    rows.into_iter()
        .map(|(row, tried)| {
            (
                row.to_owned(),
                came.iter().map(|role| of_role(&tried, role)).collect(),
            )
        })
        .collect()
}

/// Rights that cannot be tried: none is granted, nor may any be passed on.
const STRANGE_GRANTS: &str = "
    SELECT x.what, a.grantee::regrole, a.privilege_type, a.is_grantable
      FROM (SELECT c.relname, c.relacl, c.relowner FROM pg_class c WHERE c.relnamespace = 'tide'::regnamespace
            UNION ALL
            SELECT c.relname || '.' || t.attname, t.attacl, c.relowner FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
             WHERE c.relnamespace = 'tide'::regnamespace
            UNION ALL
            SELECT p.proname, p.proacl, p.proowner FROM pg_proc p WHERE p.pronamespace = 'tide'::regnamespace
            UNION ALL
            SELECT t.typname, t.typacl, t.typowner FROM pg_type t WHERE t.typnamespace = 'tide'::regnamespace
            UNION ALL
            SELECT n.nspname, n.nspacl, n.nspowner FROM pg_namespace n WHERE n.nspname = 'tide') x(what, acl, owner),
           aclexplode(x.acl) a
     WHERE a.grantee <> x.owner
       AND (a.grantee = 0 OR a.is_grantable OR a.privilege_type NOT IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE', 'EXECUTE'))";

#[tokio::test]
async fn every_role_may_do_what_the_page_says_and_nothing_else() {
    let (database, owner) = Database::installed().await;
    let other = database.role("").await;
    // The owner's name may be that of a schema; names are written out for all.
    owner.run("SET search_path = pg_catalog").await;
    let scene = Scene::set(&owner, &other).await;
    let mut sessions = Vec::new();
    for (_, how) in ROLES {
        let role = if how.starts_with("IN ROLE") {
            database.role(how).await
        } else {
            let role = database.role("").await;
            if !how.is_empty() {
                owner
                    .run(&format!("SELECT tide.{}", how.replace("@role", &role)))
                    .await;
            }
            role
        };
        sessions.push(database.session_of(&role).await);
    }
    assert_eq!(owner.rows(STRANGE_GRANTS).await, Vec::<String>::new());

    let mut attempts = functions(&owner, &scene).await;
    for (row, sql) in STATEMENTS {
        attempts.extend(scene.both(row, sql));
    }
    attempts.extend(relations(&owner).await);
    // The owner first, who may do everything: what is refused to others is
    // refused to them, and not wrong in itself.
    for (attempt, came) in attempts.iter().zip(attempt(&owner, &attempts).await) {
        let right = attempt.may(&came, true) || came.state == "55000";
        assert!(right, "{}\n{} {}", attempt.sql, came.state, came.message);
        let meant = !came.state.starts_with("42") && !came.state.starts_with("0A");
        assert!(
            attempt.refusal != Refusal::OfRelation || meant || attempt.right == "truncate",
            "{}\n{} {}",
            attempt.sql,
            came.state,
            came.message
        );
    }
    let mut came = Vec::new();
    for session in &sessions {
        came.push(self::attempt(session, &attempts).await);
    }
    page::compare(&rights(&attempts, &came));
}
