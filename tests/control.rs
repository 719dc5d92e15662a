//! The control socket of a tree, through real sockets; the host below the tree exists only in memory.

mod support;

use pepita_supervisor::control::{
    self, Call, Client, ClientError, ControlError, Hooks, Received, ShutdownMode, StatusPart,
};
use pepita_supervisor::group::Command;
use pepita_supervisor::spec::{Signal, Strategy, TreeSpec};
use pepita_wire::{Ask, ErrorKind, ToHost};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
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
async fn a_client_of_before_reads_the_status_of_a_small_tree() {
    let served = ServedTree::open(Hooks::default()).await;
    let mut stream = UnixStream::connect(served.path()).await.expect("connected");
    stream.write_all(b"{\"id\":7,\"method\":\"status\"}\n").await.expect("sent");
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(stream);
    tokio::io::AsyncBufReadExt::read_line(&mut reader, &mut line).await.expect("a line");
    // It reads one line, as that of a guest, with a bound.
    let Ok(ToHost::Answer { id: 7, outcome: Ok(status) }) = ToHost::decode(line.trim_end().as_bytes()) else {
        panic!("{line}")
    };
    let (group, vm) = (&status["groups"][0], &status["groups"][0]["vms"][1]);
    assert_eq!(
        (&group["name"], &group["strategy"], &group["after"]),
        (&"web".into(), &"one_for_one".into(), &serde_json::json!([]))
    );
    for key in [
        "name",
        "id",
        "phase",
        "incarnation",
        "attempts",
        "wanted",
        "needs_restart",
        "cid",
        "vmm_pid",
        "phase_ms",
    ] {
        assert!(vm.get(key).is_some(), "{key} in {vm}");
    }
    assert_eq!((&vm["name"], &vm["id"], &vm["wanted"]), (&"b".into(), &"duende-vm-b".into(), &true.into()));
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

/// Starts a tree of this many VMs in groups of a hundred, and serves it. Also returns how often its configuration was read.
async fn many(vms: usize) -> (Rig, control::Control, tempfile::TempDir, Arc<AtomicUsize>) {
    let groups = (0..vms.div_ceil(100)).map(|g| {
        let names = (0..100).map(move |n| format!("vm-{g}-{n}"));
        group(&format!("g-{g}"), Strategy::OneForOne, names.map(|name| vm(&name)))
    });
    let spec = TreeSpec { max_parallel_launches: 1024, ..tree(groups) };
    let reads = Arc::new(AtomicUsize::new(0));
    let hooks = Hooks::default().load({
        let (spec, reads) = (spec.clone(), Arc::clone(&reads));
        move || {
            reads.fetch_add(1, Ordering::SeqCst);
            Ok(spec.clone())
        }
    });
    let rig = Rig::start(spec).await;
    let dir = tempfile::tempdir().expect("a folder");
    let control = control::serve(&rig.tree, &dir.path().join("c.sock"), hooks).expect("served");
    (rig, control, dir, reads)
}

#[tokio::test(start_paused = true)]
async fn every_question_about_ten_thousand_vms_is_answered() {
    let (rig, control, _dir, _) = many(10_000).await;
    let mut client = Client::connect(control.path()).await.expect("connected");
    let all = |status: &Value| -> usize {
        let groups = status["groups"].as_array().expect("groups");
        groups.iter().map(|group| group["vms"].as_array().expect("VMs").len()).sum()
    };
    let before = std::time::Instant::now();
    let status = client.call(Call::Status).await.expect("answered");
    println!("the status of 10000 VMs takes {:?}", before.elapsed());
    assert_eq!(all(&status), 10_000);
    assert_eq!(status["groups"][99]["vms"][99]["name"], "vm-99-99");
    let part = StatusPart { of: vec!["duende-vm-vm-7-3".into()], brief: true };
    let part = client.call(Call::StatusOf(part)).await.expect("answered");
    assert_eq!((all(&part), part["groups"].as_array().map(Vec::len)), (100, Some(100)));
    let plan = client.call(Call::Plan).await.expect("answered");
    assert_eq!((&plan["empty"], &plan["plan"]["removed"]["of"]), (&true.into(), &10_000.into()));
    client.call(Call::Reload { restart: false }).await.expect("answered");
    client.call(Call::Events { after: Some(0) }).await.expect("answered");
    rig.tree.destroy().await;
    control.close().await;
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_read_cost_one_answer_each_and_delay_nobody() {
    const CLIENTS: usize = 32;
    const QUESTIONS: usize = 30;
    let (rig, control, _dir, plans) = many(2_000).await;
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = UnixStream::connect(control.path()).await.expect("connected");
        for id in 1..=QUESTIONS {
            let method = ["status", "plan"][id % 2];
            stream
                .write_all(format!("{{\"id\":{id},\"method\":{method:?}}}\n").as_bytes())
                .await
                .expect("sent");
        }
        stalled.push(stream);
    }
    // Another client is answered, also when the server has come to all of them.
    let mut client = Client::connect(control.path()).await.expect("connected");
    for _ in 0..CLIENTS {
        client.call(Call::Status).await.expect("answered");
        client.call(Call::Plan).await.expect("answered");
    }
    // Each of them has one plan that waits to be read at most, and one that is being sent.
    let made = plans.load(Ordering::SeqCst) - CLIENTS;
    assert!(made <= 2 * CLIENTS, "{made} plans for {CLIENTS} clients that read none");
    // One that reads later gets every answer.
    let mut late = tokio::io::BufReader::new(stalled.pop().expect("a client"));
    let mut line = String::new();
    for _ in 0..QUESTIONS {
        line.clear();
        tokio::io::AsyncBufReadExt::read_line(&mut late, &mut line).await.expect("a line");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert!(answer["ok"].is_object(), "{}", &line[..line.len().min(200)]);
    }
    rig.tree.destroy().await;
    control.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_removes_most_is_refused_until_it_is_allowed() {
    // semantics 11.8.
    let text = Arc::new(Mutex::new(spec(&["a", "b"])));
    let written = Arc::clone(&text);
    let mut served =
        ServedTree::open(Hooks::default().load(move || Ok(written.lock().expect("whole").clone()))).await;
    let mut client = served.client().await;
    for (left, is_refused) in [(&[][..], true), (&["c"], true), (&["a"], false)] {
        *text.lock().expect("whole") = spec(left);
        let plan = client.call(Call::Plan).await.expect("planned");
        assert_eq!(plan["plan"]["removed"]["needs_permission"], is_refused, "{plan}");
        let words = plan["text"].as_str().expect("a text");
        assert_eq!(words.contains("--allow-removal"), is_refused, "{words}");
        if is_refused {
            assert_eq!(refused(client.call(Call::Reload { restart: true }).await), ErrorKind::Conflict);
            assert_eq!(served.rig.phases().len(), 2, "nothing was changed");
        }
    }
    // It is told once: the same notice comes at intervals (semantics 10.6).
    served.rig.said("a reload was refused: the new configuration removes every VM (a, b)").await;
    // A file that was cut off behind its first table.
    *text.lock().expect("whole") = tree([]);
    assert_eq!(refused(client.call(Call::Reload { restart: false }).await), ErrorKind::Conflict);
    client.call(Call::ReloadAndRemove { restart: false }).await.expect("allowed");
    served.rig.until_gone(&["a", "b"]).await;
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_called_by_its_name_or_its_id() {
    let mut served = ServedTree::open(Hooks::default()).await;
    let mut client = served.client().await;
    let vm = "duende-vm-a".to_owned();
    client.call(Call::Command { vm: vm.clone(), command: Command::Stop }).await.expect("accepted");
    served.rig.until("a", "stopped").await;
    assert_eq!(refused(client.call(Call::Pause { vm }).await), ErrorKind::Conflict);
    let call = Call::Command { vm: "duende-vm-nobody".into(), command: Command::Stop };
    assert_eq!(refused(client.call(call).await), ErrorKind::NotFound);
    served.end().await;
}

#[tokio::test]
async fn a_supervisor_that_is_silent_is_told_from_one_that_is_busy() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("c.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    let limit = std::time::Duration::from_millis(200);
    let mut client = Client::connect_with_patience(&path, limit).await.expect("connected");
    let (mut server, _) = listener.accept().await.expect("accepted");
    // Nobody answers, as when the supervisor was stopped.
    let silent = client.call(Call::Status).await.expect_err("silent");
    assert!(matches!(&silent, ClientError::Silent { pid: Some(_), .. }), "{silent}");
    let words = silent.to_string();
    assert!(words.contains("has not answered for 200ms: it is stopped, or it hangs"), "{words}");
    // One that is busy answers `version` meanwhile, however long the call takes.
    let mut client = Client::connect_with_patience(&path, limit).await.expect("connected");
    let (busy, _) = listener.accept().await.expect("accepted");
    let busy = tokio::spawn(async move {
        let mut busy = tokio::io::BufReader::new(busy);
        for answered in 0.. {
            let mut line = String::new();
            tokio::io::AsyncBufReadExt::read_line(&mut busy, &mut line).await.expect("a line");
            let request: Value = serde_json::from_str(&line).expect("JSON");
            let mut answer = String::new();
            if request["method"] == "version" {
                answer = format!("{{\"id\":{},\"ok\":{{}}}}\n", request["id"]);
            }
            if answered == 4 {
                answer.push_str("{\"id\":1,\"ok\":{\"end\":\"stopped\"}}\n");
            }
            busy.get_mut().write_all(answer.as_bytes()).await.expect("sent");
            if answered == 4 {
                return;
            }
        }
    });
    let end = client.call(Call::Shutdown { how: ShutdownMode::Stop }).await.expect("answered at last");
    assert_eq!(end["end"], "stopped");
    busy.await.expect("its clients were well behaved");
    server.write_all(b"{}").await.expect("still connected");
    // A supervisor that accepts nobody: its queue is full.
    let full = dir.path().join("full.sock");
    let listener = std::os::unix::net::UnixListener::bind(&full).expect("bound");
    rustix::net::listen(&listener, 0).expect("a queue of one");
    let _first = UnixStream::connect(&full).await.expect("queued");
    let _second = UnixStream::connect(&full).await;
    let error = Client::connect_with_patience(&full, limit).await.expect_err("full");
    assert!(matches!(error, ClientError::Silent { .. }), "{error}");
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
