//! VMs of container images under supervision.

use crate::host::{Daemon, Host, PATIENCE, guest};
use serde_json::Value;

#[test]
fn a_container_image_is_brought_before_the_launch_and_starts_again_without_its_place() {
    let host = Host::with_microvms(
        r#"
        [[group]]
        name = "g"
        start.ready = "started"
        [[group.vm]]
        name = "cache"
        image = "oci:layout:7"
        memory_mb = 256
        command = ["--save", ""]
        [[group]]
        name = "h"
        [[group.vm]]
        name = "lost"
        image = "127.0.0.1:1/none:1"
        restart.backoff.initial_delay = "60s"
        restart.backoff.max_delay = "60s"
        "#,
    );
    let data = tempfile::tempdir().expect("a directory");
    let layout = host.path("layout");
    std::os::unix::fs::symlink(guest("images/redis"), &layout).expect("linked");
    let mut program = host.pepitad(&["--json"]);
    let mut daemon = Daemon::start(program.env("PEPITA_DATA_DIR", data.path()));
    let patience = PATIENCE.as_secs().to_string();
    host.ctl_ok(&["wait", "cache", "--timeout", &patience]);
    // The digest that was launched is on record, and the image's entrypoint got the arguments.
    let config = std::fs::read_to_string(host.path("r/duende-vm-cache/spec.json")).expect("a configuration");
    let config: Value = serde_json::from_str(&config).expect("JSON");
    assert!(
        config["image"]["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")),
        "{config}"
    );
    assert_eq!(config["command"], serde_json::json!(["redis-server", "--save", ""]));
    assert_eq!(config["world"]["user"], "redis");

    std::fs::remove_file(&layout).expect("removed");
    host.ctl_ok(&["exec", "cache", "--", "sh", "-c", "until redis-cli ping; do :; done"]);
    host.ctl_ok(&["restart", "cache", "--timeout", &patience]);
    // The stop signal was the image's, because the configuration names none.
    let words = host.ctl_ok(&["logs", "--previous", "cache"]);
    assert!(words.contains("Received SIGINT"), "{words}");
    // A registry that cannot be reached costs its own VM some attempts, and nothing else.
    let status: Value = serde_json::from_str(&host.ctl_ok(&["status", "--json"])).expect("JSON");
    assert!(status.to_string().contains("127.0.0.1:1"), "{status}");
    let phase = |name: &str| {
        let groups = status["groups"].as_array().expect("groups").iter();
        let mut vms = groups.flat_map(|group| group["vms"].as_array().expect("VMs").clone());
        vms.find(|vm| vm["name"] == name).expect("a VM")["phase"].clone()
    };
    assert_eq!(phase("cache"), "ready");
    assert!(["starting", "backoff"].iter().any(|word| phase("lost") == *word), "{status}");
    daemon.stop();
    host.assert_nothing_left();
}
