//! Pods as a namespace with the Pod Security level `restricted` takes them.

use serde_json::{Value, json};

/// A pod of one container that runs a program of the image with these
/// arguments: no API token, no root, nothing to write to, ended within a
/// second. Add what a test needs: volumes, variables, labels.
pub fn restricted_pod(name: &str, image: &str, program: &str, arguments: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main",
                "image": image,
                "command": [program],
                "args": arguments,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}
