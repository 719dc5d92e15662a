//! The protocol with a guest, the same over every transport: hybrid here, AF_VSOCK where the host's kernel has it, and
//! plain processes. `tests/vhost.rs` runs this very module inside a VM whose kernel has vhost_vsock.

use crate::host::{Host, PATIENCE, patience, pepita};
use pepita_supervisor::policy::Exit;
use pepita_supervisor::spec::Signal;
use pepita_wire::Ask;
use pepita_wire::agent::{Exec, ExecResult};
use pepita_wire::record::Transport;

struct Form {
    vmm: &'static str,
    ticker: String,
}

fn microvm() -> Form {
    Form { vmm: "qemu", ticker: "/usr/bin/ticker".into() }
}

fn process() -> Form {
    Form { vmm: "process", ticker: pepita().with_file_name("ticker").to_string_lossy().into_owned() }
}

fn expected_transport() -> Transport {
    match std::path::Path::new("/dev/vhost-vsock").exists() {
        true => Transport::Vhost,
        false => Transport::Hybrid,
    }
}

async fn converse(form: Form) {
    let host = Host::new();
    let (vmm, ticker) = (form.vmm, &form.ticker);
    let groups = format!(
        "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\nvmm = \"{vmm}\"\ncommand = [\"{ticker}\"]\n\
         [[group.vm]]\nname = \"three\"\nvmm = \"{vmm}\"\nrestart.policy = \"never\"\n\
         command = [\"{ticker}\", \"--after\", \"300\", \"--exit\", \"3\"]\n"
    );
    let (tree, mut events) = host.start(&groups).await;
    let three = events.phase("three", "failed").await;
    assert_eq!(three.exit(), Some(&Exit::code(3)), "the exit code is exact");
    let status = host.status("api");
    if vmm == "qemu" {
        assert_eq!(status.vsock.transport, expected_transport());
        println!("transport: {:?}, CID {}", status.vsock.transport, status.vsock.cid);
    }

    // A hello was exchanged before: without it no request would be answered.
    tree.ask("api", Ask::Ping).await.expect("a pong");
    let exec =
        Exec { command: vec![ticker.clone(), "--exit".into(), "7".into()], timeout_ms: 10_000, bulk: false };
    let answer = tree.ask("api", Ask::Exec(exec)).await.expect("an answer");
    let result: ExecResult = serde_json::from_value(answer).expect("a result");
    assert_eq!(result.exit, Exit::code(7));

    tree.signal("api", Signal::HUP).await.expect("delivered");
    let backoff = events.phase("api", "backoff").await;
    assert_eq!(backoff.exit(), Some(&Exit::signal(1)));
    let ready = events.phase("api", "ready").await;
    assert_eq!(ready.incarnation.0, 2);

    host.kill_vmm("api");
    let backoff = events.phase("api", "backoff").await;
    assert!(matches!(backoff.exit(), Some(Exit::VmmCrashed(_))), "{backoff:?}");
    events.phase("api", "ready").await;
    assert_eq!(host.status("api").vsock.cid, status.vsock.cid, "a VM keeps its CID");
    // The link is a new link, to the new guest.
    let deadline = std::time::Instant::now() + patience();
    while tree.ask("api", Ask::Ping).await.is_err() {
        assert!(std::time::Instant::now() < deadline, "no pong of the third incarnation");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    tree.stop().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_microvm_is_talked_to_from_hello_to_restart() {
    converse(microvm()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_process_is_talked_to_in_the_same_way() {
    converse(process()).await;
}

/// Two supervisors and a plain `pepita run` on one host: no CID is given twice, and no supervisor touches the VMs of
/// the others.
#[tokio::test(flavor = "multi_thread")]
async fn two_supervisors_and_a_plain_run_share_a_host() {
    let host = Host::new();
    let ticker = process().ticker;
    let group = |name: &str| {
        format!(
            "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"{name}\"\nvmm = \"process\"\ncommand = [\"{ticker}\"]\n"
        )
    };
    let (one, _) = host.start(&group("one")).await;
    one.wait_ready(PATIENCE).await.expect("ready");
    // A supervisor of another name would begin at other CIDs; a supervisor of the same name meets the CIDs of the first
    // one, and goes around them.
    let mut spec = host.spec(&group("two"));
    spec.state_dir = Some(host.path("s2"));
    spec.name = "test-2".into();
    let taken = one.status().vm("one").and_then(|vm| vm.cid).expect("a CID");
    spec.groups[0].vms[0].cid = Some(taken);
    let refused = pepita_supervisor::tree::Tree::start(spec.clone()).await.expect("the tree starts");
    let mut events = crate::host::Watcher::of(&refused);
    events.until("word of the CID", |event| event.to_string().contains("CID")).await;
    refused.stop().await;
    spec.groups[0].vms[0].cid = None;
    let two = pepita_supervisor::tree::Tree::start(spec).await.expect("the tree starts");
    two.wait_ready(PATIENCE).await.expect("ready");
    let plain = host.pepita(&["run", "--vmm", "process", "--name", "plain", "--daemon", "--", &ticker]);
    assert!(plain.status.success());
    let list = host.pepita(&["list", "--json"]);
    let records: Vec<pepita_wire::StatusRecord> = serde_json::from_slice(&list.stdout).expect("records");
    let cids: std::collections::BTreeSet<u32> = records.iter().map(|record| record.vsock.cid).collect();
    assert_eq!((records.len(), cids.len()), (3, 3), "{records:#?}");

    let before = two.status().vm("two").map(|vm| vm.incarnation);
    one.stop().await;
    let names = host.pepita(&["list", "--format", "name"]);
    assert_eq!(String::from_utf8_lossy(&names.stdout), "duende-vm-two\nplain\n");
    assert_eq!(two.status().vm("two").map(|vm| vm.incarnation), before, "the VM was not touched");
    two.stop().await;
    assert!(host.pepita(&["destroy", "--name", "plain"]).status.success());
    host.assert_nothing_left();
}

/// Only where the host's kernel has AF_VSOCK; elsewhere the hybrid transport has no CIDs of other programs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cid_that_another_program_holds_is_noticed_and_another_is_leased() {
    if expected_transport() != Transport::Vhost {
        println!("no /dev/vhost-vsock here: shown by tests/vhost.rs, inside a VM that has it");
        return;
    }
    let host = Host::new();
    let groups = "[[group]]\nname = \"web\"\n[[group.vm]]\nname = \"api\"\n";
    // The CID that the tree of this name leases first.
    let mut pool = pepita_supervisor::cid::Pool::new("test");
    let api = pepita_supervisor::spec::VmName::new("api").expect("a good name");
    let first = pool.lease(&api, None).expect("free").get();
    let held = pepita_launcher::host::vhost_vsock::claim(first).expect("free");
    let (tree, mut events) = host.start(groups).await;
    events.until("word of the CID", |event| event.to_string().contains("another CID is leased")).await;
    events.phase("api", "ready").await;
    assert_ne!(host.status("api").vsock.cid, first);
    drop(held);
    tree.stop().await;
    host.assert_nothing_left();
}

/// Peers are checked: with vsock_loopback (CID 1) the agent of the VM that this test runs in can be reached from
/// inside, and refuses every peer without the token.
#[tokio::test(flavor = "multi_thread")]
async fn over_loopback_no_peer_gets_in_without_the_token() {
    use pepita_supervisor::link::dial::{Address, dial};
    use pepita_wire::{Hello, ToGuest, ToHost};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    if std::env::var_os("PEPITA_TEST_LOOPBACK").is_none() {
        println!("not inside a guest with vsock_loopback: shown by tests/vhost.rs");
        return;
    }
    let stream = dial(Address::Vhost { cid: 1, port: 5000 }).await.expect("vsock_loopback connects");
    let mut stream = BufReader::new(stream);
    let hello =
        Hello { protocol_version: 1, token: Some("guess".into()), incarnation: 1, ..Hello::default() };
    stream.write_all(&ToGuest::Hello(hello).encode()).await.expect("written");
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("an answer");
    let ToHost::Answer { outcome: Err(refusal), .. } =
        ToHost::decode(line.trim_end().as_bytes()).expect("a frame")
    else {
        panic!("let in: {line}")
    };
    assert_eq!(refusal.kind, pepita_wire::ErrorKind::Unauthorized);
}
