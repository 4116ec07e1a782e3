//! Pods that a namespace with restricted Pod Security admits.

use pg_tide_chart_tests::{Chart, Objects, read};
use serde_json::{Value, json};

/// What the restricted standard asks of each container, its own settings or
/// the pod's.
fn violations(pod: &Value) -> Vec<String> {
    let mut found = vec![];
    let mut want = |what: &str, met: bool| {
        if !met {
            found.push(what.to_owned());
        }
    };
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        want(host, pod[host].is_null());
    }
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        want("hostPath", volume["hostPath"].is_null());
    }
    let containers = pod["containers"].as_array().unwrap();
    want("containers", !containers.is_empty());
    for container in containers
        .iter()
        .chain(pod["initContainers"].as_array().into_iter().flatten())
    {
        let of = |key: &str| {
            let own = &container["securityContext"][key];
            if own.is_null() {
                &pod["securityContext"][key]
            } else {
                own
            }
        };
        want("runAsNonRoot", of("runAsNonRoot") == true);
        want("runAsUser", of("runAsUser") != 0);
        want("seccompProfile", of("seccompProfile")["type"] == "RuntimeDefault");
        let context = &container["securityContext"];
        want(
            "allowPrivilegeEscalation",
            context["allowPrivilegeEscalation"] == false,
        );
        want(
            "capabilities",
            context["capabilities"] == json!({"drop": ["ALL"]}),
        );
        want("privileged", context["privileged"].is_null());
        // Beyond the standard.
        want(
            "readOnlyRootFilesystem",
            context["readOnlyRootFilesystem"] == true,
        );
    }
    found
}

fn pods(objects: &Objects) -> Vec<&Value> {
    let templates = objects.all().iter().filter_map(|o| o["spec"].get("template"));
    templates.map(|template| &template["spec"]).collect()
}

#[test]
fn each_pod_is_restricted() {
    let plain = Objects::parse(&read("config/default/operator.yaml"));
    for objects in [Chart::operator().objects(), plain] {
        let pods = pods(&objects);
        assert_eq!(pods.len(), 1);
        for pod in pods {
            assert_eq!(violations(pod), Vec::<String>::new());
            assert_eq!(pod["securityContext"]["runAsUser"], 65532);
        }
    }
}

#[test]
fn a_platform_may_choose_the_user() {
    let objects = Chart::operator()
        .set("podSecurityContext.runAsUser", &Value::Null)
        .set("podSecurityContext.runAsGroup", &Value::Null)
        .objects();
    let pods = pods(&objects);
    assert!(pods[0]["securityContext"]["runAsUser"].is_null());
    assert_eq!(violations(pods[0]), Vec::<String>::new());
}

#[test]
fn nothing_reaches_the_operator_but_its_port() {
    let objects = Chart::operator().objects();
    let policy = &objects.one("NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    assert_eq!(
        policy["ingress"],
        json!([{"ports": [{"port": "metrics", "protocol": "TCP"}]}])
    );
    assert!(policy["egress"].is_null());
}

#[test]
fn only_the_pod_has_a_token() {
    let objects = Chart::operator().objects();
    assert_eq!(
        objects.one("ServiceAccount")["automountServiceAccountToken"],
        false
    );
    assert_eq!(pods(&objects)[0]["automountServiceAccountToken"], true);
}

#[test]
fn the_namespace_of_the_plain_manifests_enforces_it() {
    let objects = Objects::parse(&read("config/default/namespace.yaml"));
    let labels = &objects.one("Namespace")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
}
