//! The SQL of the guides runs as it stands there.

use crate::support::{Database, unique};

const PAGES: [&str; 3] = ["operations", "troubleshooting", "retention"];

/// The blocks marked `sql` of a page.
pub(crate) fn blocks(page: &str) -> Vec<String> {
    let path = format!("{}/../docs/guide/{page}.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let after = text.split("\n```sql\n").skip(1);
    after
        .map(|block| block.split("\n```").next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_sql_of_the_guides_runs() {
    for page in PAGES {
        let (database, session) = Database::installed().await;
        session
            .run("SELECT tide.outbox_create('orders'), tide.inbox_create('payments')")
            .await;
        // Roles belong to the whole server.
        let roles = ["shop_relay", "shop_app"].map(|role| (role, unique(role)));
        for (_, own) in &roles {
            database.knows_role(own);
        }
        let blocks = blocks(page);
        assert!(!blocks.is_empty(), "{page}");
        for block in blocks {
            let sql = roles
                .iter()
                .fold(block, |sql, (role, own)| sql.replace(role, own));
            session.run(&sql).await;
        }
    }
}
