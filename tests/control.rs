//! The control socket of a tree, through real sockets; the host below the tree exists only in memory.

mod support;

use pepita_supervisor::control::{
    self, Call, Client, ClientError, ControlError, Hooks, Received, ShutdownMode,
};
use pepita_supervisor::group::Command;
use pepita_supervisor::spec::{Signal, Strategy, TreeSpec};
use pepita_wire::{Ask, ErrorKind};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use support::{Rig, group, tree, vm};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

fn spec(vms: &[&str]) -> TreeSpec {
    tree([group("web", Strategy::OneForOne, vms.iter().map(|name| vm(name)))])
}

struct ServedTree {
    rig: Rig,
    control: control::Control,
    dir: tempfile::TempDir,
}

impl ServedTree {
    async fn open(hooks: Hooks) -> Self {
        let rig = Rig::ready(spec(&["a", "b"])).await;
        let dir = tempfile::tempdir().expect("a folder");
        let control = control::serve(&rig.tree, &dir.path().join("c.sock"), hooks).expect("a socket");
        Self { rig, control, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("c.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path()).await.expect("connected")
    }

    async fn end(self) {
        self.rig.end().await;
        let path = self.control.path().to_owned();
        self.control.close().await;
        assert!(!path.exists(), "the socket is left");
    }
}

fn refused(result: Result<Value, ClientError>) -> ErrorKind {
    match result {
        Err(ClientError::Refused(error)) => error.kind,
        other => panic!("refused? {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn questions_and_commands_are_answered() {
    let mut served = ServedTree::open(Hooks::default()).await;
    let mut client = served.client().await;
    let status = client.call(Call::Status).await.expect("answered");
    assert_eq!((&status["name"], &status["groups"][0]["strategy"]), (&"test".into(), &"one_for_one".into()));
    assert_eq!(status["groups"][0]["vms"][1]["phase"], "ready");
    let version = client.call(Call::Version).await.expect("answered");
    assert_eq!(version["pid"], std::process::id());
    client.call(Call::Command { vm: "a".into(), command: Command::Restart }).await.expect("accepted");
    assert_eq!(served.rig.change("a", "ready").await.incarnation.0, 1);
    assert_eq!(served.rig.change("a", "ready").await.incarnation.0, 2);
    client.call(Call::Signal { vm: "a".into(), signal: Signal::HUP }).await.expect("sent");
    client.call(Call::Ask { vm: "a".into(), ask: Ask::Ping }).await.expect("answered");
    let nobody = || "nobody".to_owned();
    let call = Call::Command { vm: nobody(), command: Command::Start };
    assert_eq!(refused(client.call(call).await), ErrorKind::NotFound);
    assert_eq!(refused(client.call(Call::Pause { vm: nobody() }).await), ErrorKind::NotFound);
    client.call(Call::Command { vm: "b".into(), command: Command::Stop }).await.expect("accepted");
    served.rig.until("b", "stopped").await;
    assert_eq!(refused(client.call(Call::Resume { vm: "b".into() }).await), ErrorKind::Conflict);
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_status_may_be_longer_than_what_a_guest_may_say() {
    let names: Vec<String> = (0..400).map(|n| format!("vm-{n}")).collect();
    let rig = Rig::ready(spec(&names.iter().map(String::as_str).collect::<Vec<_>>())).await;
    let dir = tempfile::tempdir().expect("a folder");
    let control = control::serve(&rig.tree, &dir.path().join("c.sock"), Hooks::default()).expect("served");
    let mut client = Client::connect(control.path()).await.expect("connected");
    let status = client.call(Call::Status).await.expect("answered");
    assert!(status.to_string().len() > pepita_wire::CONTENT_CAP);
    assert_eq!(status["groups"][0]["vms"].as_array().map(Vec::len), Some(400));
    rig.end().await;
    control.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_needs_a_hook_that_reads_the_configuration() {
    let served = ServedTree::open(Hooks::default()).await;
    let mut client = served.client().await;
    assert_eq!(refused(client.call(Call::Plan).await), ErrorKind::Unsupported);
    served.end().await;

    let heard = Arc::new(Mutex::new(Vec::new()));
    let (told, text) = (Arc::clone(&heard), Arc::new(Mutex::new(Err("two mistakes".to_owned()))));
    let written = Arc::clone(&text);
    let hooks = Hooks::default()
        .load(move || written.lock().expect("whole").clone())
        .on_command(move |call| told.lock().expect("whole").push(call.clone()));
    let mut served = ServedTree::open(hooks).await;
    let mut client = served.client().await;
    assert_eq!(refused(client.call(Call::Reload { restart: false }).await), ErrorKind::BadRequest);
    *text.lock().expect("whole") = Ok(spec(&["a", "c"]));
    let plan = client.call(Call::Plan).await.expect("planned");
    assert!(plan["text"].as_str().is_some_and(|text| text.contains("vm \"b\": removed")), "{plan}");
    assert!(served.rig.tree.status().vm("c").is_none(), "a plan changes nothing");
    client.call(Call::Reload { restart: false }).await.expect("applied");
    served.rig.until("c", "ready").await;
    let reload = Call::Reload { restart: false };
    assert_eq!(*heard.lock().expect("whole"), [reload.clone(), reload], "plans change nothing");
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_come_from_any_number_on_and_end_with_the_tree() {
    let served = ServedTree::open(Hooks::default()).await;
    let mut client = served.client().await;
    client.call(Call::Events { after: Some(2) }).await.expect("told from here on");
    assert_eq!(
        refused(client.call(Call::Events { after: None }).await),
        ErrorKind::Conflict,
        "once is enough"
    );
    let mut shutting = served.client().await;
    let end = shutting.call(Call::Shutdown { how: ShutdownMode::Stop }).await.expect("ended");
    assert_eq!(end["end"], "stopped");
    let mut seqs = Vec::new();
    while let Some(heard) = client.receive().await.expect("the server keeps to the protocol") {
        let Received::Event(event) = heard else { panic!("{heard:?}") };
        seqs.push(event["seq"].as_u64().expect("a number"));
    }
    assert_eq!(seqs, (3..3 + seqs.len() as u64).collect::<Vec<_>>());
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_told_how_much_it_missed() {
    let mut served = ServedTree::open(Hooks::default()).await;
    let mut slow = served.client().await;
    slow.call(Call::Events { after: None }).await.expect("told from here on");
    let before = served.rig.tree.newest_event();
    // More events than the bus keeps and a socket holds.
    while served.rig.tree.newest_event() < before + 4000 {
        served.rig.tree.command("a", Command::Restart).await.expect("accepted");
        served.rig.change("a", "ready").await;
    }
    let last = served.rig.tree.newest_event();
    let (mut told, mut missed) = (0, 0);
    while told + missed < last - before {
        match slow.receive().await.expect("the server keeps to the protocol").expect("the events go on") {
            Received::Event(_) => told += 1,
            Received::Lagged(n) => missed += n,
            Received::Answer { .. } => {}
        }
    }
    assert!(missed > 0 && told > 0, "{told} told, {missed} missed");
    assert_eq!(told + missed, last - before, "each is either told or counted");
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_beyond_the_limit_is_told_so() {
    let served = ServedTree::open(Hooks::default()).await;
    let mut clients = Vec::new();
    for _ in 0..64 {
        let mut client = served.client().await;
        client.call(Call::Version).await.expect("answered");
        clients.push(client);
    }
    assert_eq!(refused(served.client().await.call(Call::Version).await), ErrorKind::Busy);
    clients.pop();
    // The place of the client is free as soon as the server has seen it go.
    while served.client().await.call(Call::Version).await.is_err() {
        tokio::task::yield_now().await;
    }
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_protocol_is_disconnected_and_others_are_not() {
    let served = ServedTree::open(Hooks::default()).await;
    let mut stranger = UnixStream::connect(served.path()).await.expect("connected");
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n").await.expect("sent");
    let mut answer = String::new();
    stranger.read_to_string(&mut answer).await.expect("hung up on");
    assert_eq!(answer.matches("bad-request").count(), 3, "{answer}");
    served.client().await.call(Call::Status).await.expect("answered");
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_trees_do_not_share_a_socket() {
    let served = ServedTree::open(Hooks::default()).await;
    let again = control::serve(&served.rig.tree, &served.path(), Hooks::default());
    assert!(matches!(again, Err(ControlError::Taken(_))));
    let path = served.path();
    served.end().await;
    let error = Client::connect(&path).await.expect_err("no supervisor listens").to_string();
    assert!(error.contains("is pepitad running?"), "{error}");
}
