//! Argo CD's health checks, run by the interpreter that Argo CD has inside.

use serde_json::Value;

use crate::program::run;

/// What Argo CD shows for a resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Health {
    /// `Healthy`, `Progressing`, `Degraded`, `Suspended`
    pub status: String,
    /// The words beside it.
    pub message: String,
}

/// Argo CD opens no more to a health check than Lua's base and table
/// libraries, unless told to.
const DRIVER: &str = r#"
local obj, script = ...
getmetatable("").__index = nil
for _, name in ipairs({"string", "math", "io", "coroutine", "debug", "channel", "os"}) do _G[name] = nil end
_G.obj = obj
local result = script()
assert(type(result) == "table", "a table is expected")
print(result.status)
print(result.message or "")
"#;

/// Runs the script on a resource.
///
/// # Panics
/// When the script fails.
pub fn health(script: &str, resource: &Value) -> Health {
    let program = format!(
        "local function driver(...)\n{DRIVER}\nend\ndriver({}, function()\n{script}\nend)\n",
        literal(resource)
    );
    let file = std::env::temp_dir().join(format!(
        "pg-tide-health-{}-{:?}.lua",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, program).unwrap();
    let output = run("glua", "TIDE_GLUA", &[file.display().to_string()]);
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let wrong = String::from_utf8_lossy(&output.stderr);
    // glua writes an error to its standard output.
    assert!(
        output.status.success() && wrong.is_empty(),
        "{said}{wrong}\n{resource}"
    );
    let (status, message) = said.split_once('\n').unwrap_or_else(|| panic!("{said:?}"));
    Health {
        status: status.into(),
        message: message.trim_end_matches('\n').into(),
    }
}

/// A value as Lua writes it.
fn literal(value: &Value) -> String {
    match value {
        Value::Null => "nil".into(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(literal).collect();
            format!("{{{}}}", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("[{}] = {}", Value::from(name.as_str()), literal(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        // Strings without control characters read the same in both languages.
        plain => plain.to_string(),
    }
}
