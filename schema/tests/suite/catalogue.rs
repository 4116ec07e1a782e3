//! Everything that PostgreSQL knows of schema tide, as sorted lines: what an
//! installation, an upgrade and an extension must leave alike.

use crate::support::Session;

/// Partitions are named after the hour in which they begin; their bounds are
/// left out.
const CATALOGUE: &str = r#"
    WITH relation AS (
        SELECT c.* FROM pg_class c WHERE c.relnamespace = 'tide'::regnamespace),
    role AS (SELECT oid, rolname FROM pg_roles UNION ALL SELECT 0, 'PUBLIC'),
    fact(kind, line) AS (
    SELECT 'relation', concat_ws(' | ', r.relname, r.relkind, r.relpersistence, r.reloptions, r.relrowsecurity,
                                 r.relforcerowsecurity, pg_get_partkeydef(r.oid), obj_description(r.oid))
      FROM relation r WHERE r.relkind NOT IN ('i', 'I')
    UNION ALL
    SELECT 'column', concat_ws(' | ', r.relname,
                               row_number() OVER (PARTITION BY r.oid ORDER BY a.attnum), a.attname,
                               format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                               'default ' || pg_get_expr(d.adbin, d.adrelid), 'identity ' || nullif(a.attidentity::text, ''),
                               nullif(a.attgenerated::text, ''), a.attcollation::regcollation, col_description(r.oid, a.attnum))
      FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
      LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
     WHERE r.relkind IN ('r', 'p', 'v')
    UNION ALL
    SELECT 'constraint', concat_ws(' | ', coalesce(r.relname, c.contypid::regtype::text), c.conname,
                                   pg_get_constraintdef(c.oid), c.convalidated, obj_description(c.oid))
      FROM pg_constraint c LEFT JOIN relation r ON r.oid = c.conrelid WHERE c.connamespace = 'tide'::regnamespace
    UNION ALL
    SELECT 'index', concat_ws(' | ', pg_get_indexdef(r.oid), i.indisvalid)
      FROM relation r JOIN pg_index i ON i.indexrelid = r.oid
    UNION ALL
    SELECT 'sequence', concat_ws(' | ', r.relname, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin,
                                 s.seqmax, s.seqcache, s.seqcycle)
      FROM relation r JOIN pg_sequence s ON s.seqrelid = r.oid
    UNION ALL
    SELECT 'view', concat_ws(' | ', r.relname, pg_get_viewdef(r.oid)) FROM relation r WHERE r.relkind = 'v'
    UNION ALL
    SELECT 'trigger', concat_ws(' | ', pg_get_triggerdef(t.oid), t.tgenabled)
      FROM relation r JOIN pg_trigger t ON t.tgrelid = r.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'policy', concat_ws(' | ', p.tablename, p.policyname, p.permissive, p.roles, p.cmd, p.qual, p.with_check)
      FROM pg_policies p WHERE p.schemaname = 'tide'
    UNION ALL
    SELECT 'function', concat_ws(' | ', pg_get_functiondef(p.oid), obj_description(p.oid))
      FROM pg_proc p WHERE p.pronamespace = 'tide'::regnamespace
    UNION ALL
    SELECT 'type', concat_ws(' | ', t.typname, t.typtype, format_type(t.typbasetype, NULL), t.typnotnull, t.typdefault)
      FROM pg_type t WHERE t.typnamespace = 'tide'::regnamespace AND t.typtype = 'd'
    UNION ALL
    SELECT 'right', concat_ws(' | ', x.what, g.rolname, a.privilege_type, a.is_grantable)
      FROM (SELECT r.relname || '', coalesce(r.relacl, acldefault(CASE r.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", r.relowner))
              FROM relation r WHERE r.relkind NOT IN ('i', 'I')
            UNION ALL
            SELECT r.relname || '.' || a.attname, a.attacl
              FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attacl IS NOT NULL
            UNION ALL
            SELECT p.oid::regprocedure::text, coalesce(p.proacl, acldefault('f', p.proowner))
              FROM pg_proc p WHERE p.pronamespace = 'tide'::regnamespace
            UNION ALL
            SELECT t.typname, coalesce(t.typacl, acldefault('T', t.typowner))
              FROM pg_type t WHERE t.typnamespace = 'tide'::regnamespace AND t.typtype = 'd'
            UNION ALL
            SELECT 'schema', n.nspacl FROM pg_namespace n WHERE n.nspname = 'tide') AS x(what, acl),
           aclexplode(x.acl) a JOIN role g ON g.oid = a.grantee
    UNION ALL
    SELECT 'option', o::text FROM tide.connector_option o)
    SELECT kind || ': ' || regexp_replace(line, '_20\d{8}', '_HOUR', 'g') FROM fact ORDER BY 1"#;

/// The lines.
pub(crate) async fn catalogue(session: &Session) -> Vec<String> {
    session.rows(CATALOGUE).await
}

/// What one has and the other has not; empty when they are alike.
pub(crate) fn difference(one: &[String], other: &[String]) -> Vec<String> {
    let only = |sign: &str, these: &[String], those: &[String]| {
        these
            .iter()
            .filter(|line| !those.contains(line))
            .map(|line| format!("{sign} {line}"))
            .collect::<Vec<_>>()
    };
    let mut lines = only("-", one, other);
    lines.extend(only("+", other, one));
    if lines.is_empty() && one.len() != other.len() {
        lines.push(format!("{} lines, and {}", one.len(), other.len()));
    }
    lines
}
