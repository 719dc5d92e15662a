//! The world of a daemon, from the configuration to the guest.

use crate::host::Host;
use std::os::unix::fs::PermissionsExt;

#[tokio::test(flavor = "multi_thread")]
async fn the_world_of_the_configuration_is_the_world_in_the_guest() {
    let host = Host::new();
    let (key, variables) = (host.path("key"), host.path("cache.env"));
    for (path, text) in [(&key, "s3cret"), (&variables, "FROM_FILE=1\nOF_BOTH=file\n")] {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("closed");
    }
    let (tree, mut events) = host
        .start(&format!(
            r#"
            [[group]]
            name = "g"
            [[group.vm]]
            name = "cache"
            command = ["/usr/bin/ticker", "--world"]
            user = "101:102"
            workdir = "/data"
            env = {{ OF_BOTH = "key" }}
            env_file = {variables:?}
            secrets = ["tls-key={}"]
            ulimits = {{ nofile = "100:200" }}
            sysctls = {{ "vm.overcommit_memory" = 1 }}
            read_only = true
            network = "user"
            health.interval = "200ms"
            health.command = ["ticker", "--no-ready", "--exit", "0"]
            "#,
            key.display()
        ))
        .await;
    events.phase("cache", "ready").await;
    let logs = host.pepita(&["logs", "--name", "duende-vm-cache"]);
    let seen = String::from_utf8_lossy(&logs.stdout).into_owned();
    let lines: Vec<&str> = seen.lines().map(str::trim_end).collect();
    for line in [
        "Uid=101 101 101 101",
        "Gid=102 102 102 102",
        "cwd=/data",
        // The VM's name, not its id.
        "hostname=cache",
        "env FROM_FILE=1",
        "env OF_BOTH=key",
        "secret tls-key=400 101 s3cret",
        "limit=Max open files 100 200 files",
        "write /=Read-only file system (os error 30)",
        "reach 127.0.0.1=ok",
        r"/etc/resolv.conf=nameserver 10.0.2.3\n",
    ] {
        assert!(lines.contains(&line), "{line}:\n{seen}");
    }
    // A secret is in no record.
    let status = host.pepita(&["status", "--name", "duende-vm-cache", "--json"]);
    assert!(!String::from_utf8_lossy(&status.stdout).contains("s3cret"));
    tree.stop().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_microvm_is_ready_when_a_port_of_its_guest_answers_and_unhealthy_when_the_answer_is_wrong() {
    // semantics 1.10, 1.27, 1.28
    let host = Host::new();
    let groups = |probe: &str| {
        format!(
            r#"
            [[group]]
            name = "g"
            [[group.vm]]
            name = "a"
            command = ["/usr/bin/ticker", "--no-ready", "--serve", "tcp:7"]
            start.ready = "health"
            health = {{ {probe}, interval = "200ms", on_unhealthy = "report" }}
            "#
        )
    };
    let (tree, mut events) = host.start(&groups("tcp = 7")).await;
    events.phase("a", "ready").await;
    let probe = tree.status().vm("a").and_then(|vm| vm.probe.clone()).expect("a probe");
    assert_eq!(probe.to_string(), "good: 127.0.0.1:7 accepts connections", "{}", events.story());
    // The daemon does not speak HTTP. The change applies to the guest that runs.
    let changed = host.spec(&groups("http = \"7/healthz\""));
    tree.reload(changed, false).await.expect("applied");
    let unhealthy = events.phase("a", "unhealthy").await;
    assert_eq!(unhealthy.probe.as_deref(), Some("127.0.0.1:7: the answer is not HTTP"));
    assert_eq!(unhealthy.incarnation.0, 1);
    tree.stop().await;
    host.assert_nothing_left();
}
