//! The lines that the adapter's documentation tells a user to type work, line by line, against a real microVM.

use crate::host::{Host, guest, pepita};
use pepita_supervisor::adapter::{
    AdapterError, Daemon, DaemonHandle, DaemonStatus, PepitaAdapter, Resources, Signal,
};
use pepita_supervisor::config;
use pepita_supervisor::platform::{Platform, select_adapter};
use pepita_supervisor::policy::{Ending, Exit};
use pepita_supervisor::spec::{Restart, RestartSpec};
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Default)]
struct Ticker {
    name: &'static str,
    args: &'static [&'static str],
    policy: Option<Restart>,
}

impl Daemon for Ticker {
    fn name(&self) -> &str {
        self.name
    }

    fn command(&self) -> Option<String> {
        Some("/usr/bin/ticker".into())
    }

    fn args(&self) -> Vec<String> {
        self.args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    fn resources(&self) -> Resources {
        Resources { vcpus: None, memory_mb: Some(128) }
    }

    fn restart(&self) -> RestartSpec {
        RestartSpec { policy: self.policy.unwrap_or(Restart::OnFailure), ..RestartSpec::default() }
    }
}

fn adapter(host: &Host) -> PepitaAdapter {
    PepitaAdapter::with_images(guest("vmlinuz"), guest("ticker.cpio")).with_places(
        pepita(),
        Some(host.path("r")),
        host.path("a"),
    )
}

/// Waits until the adapter reports the expected status of a daemon: the adapter has no events of its own, so the status
/// is polled.
async fn until(
    adapter: &PepitaAdapter,
    handle: &DaemonHandle,
    wanted: impl Fn(&DaemonStatus) -> bool,
) -> DaemonStatus {
    let deadline = Instant::now() + crate::host::PATIENCE;
    loop {
        let status = adapter.status(handle).await.expect("a status");
        if wanted(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{}: {status:?}", handle.name());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_usage_works_as_it_is_written() {
    let host = Host::new();
    assert_eq!(PepitaAdapter::new().vsock_base_port(), 5000);
    assert_eq!(PepitaAdapter::with_vsock_port(9000).vsock_base_port(), 9000);
    let adapter = adapter(&host);
    let my_daemon = Ticker { name: "my-daemon", ..Ticker::default() };

    let handle = adapter.spawn(Box::new(my_daemon)).await.expect("spawned");
    assert_eq!(handle.pepita_vm_id().unwrap(), "duende-vm-my-daemon");
    assert!(handle.vsock_cid().unwrap() >= 3);
    assert_eq!(adapter.status(&handle).await.expect("a status"), DaemonStatus::Running);

    // The section "Verification" of the documentation.
    let list = host.pepita(&["list"]);
    assert!(String::from_utf8_lossy(&list.stdout).contains("duende-vm"));
    let status = host.status("my-daemon");
    assert_eq!(status.vsock.cid, handle.vsock_cid().unwrap());
    assert!(host.pepita(&["logs", "--name", "duende-vm-my-daemon"]).status.success());
    assert_eq!(adapter.list_vms().await.expect("a list"), ["duende-vm-my-daemon"]);

    adapter.signal(&handle, Signal::Stop).await.expect("paused");
    until(&adapter, &handle, |status| *status == DaemonStatus::Paused).await;
    adapter.signal(&handle, Signal::Cont).await.expect("resumed");
    until(&adapter, &handle, |status| *status == DaemonStatus::Running).await;

    adapter.signal(&handle, Signal::Term).await.expect("signalled");
    until(&adapter, &handle, |status| *status == DaemonStatus::Stopped).await;
    assert_eq!(adapter.last_end(&handle).await.as_ref().and_then(Ending::exit), Some(&Exit::code(0)));

    adapter.destroy(handle.pepita_vm_id().unwrap()).await.expect("destroyed");
    assert_eq!(adapter.status(&handle).await.expect("a status"), DaemonStatus::Stopped);
    host.assert_nothing_left();
}

/// The log lines of the executors of this process, once [`listen`] was called.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn listen() {
    let executors = tracing_subscriber::EnvFilter::new("pepita_supervisor::executor=debug");
    tracing_subscriber::fmt().with_ansi(false).with_env_filter(executors).with_writer(|| Log).init();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_four_documented_commands_are_in_the_executors_log() {
    listen();
    let host = Host::new();
    let adapter = adapter(&host);
    let handle =
        adapter.spawn(Box::new(Ticker { name: "four", ..Ticker::default() })).await.expect("spawned");
    adapter.status(&handle).await.expect("a status");
    adapter.signal(&handle, Signal::Hup).await.expect("signalled");
    adapter.destroy(handle.pepita_vm_id().unwrap()).await.expect("destroyed");
    let (kernel, rootfs, cid) = (guest("vmlinuz"), guest("ticker.cpio"), handle.vsock_cid().unwrap());
    let (kernel, rootfs) = (kernel.display(), rootfs.display());
    let text = String::from_utf8_lossy(&LOG.lock().expect("the log")).into_owned();
    for command in [
        format!("pepita run --kernel {kernel} --rootfs {rootfs} --vsock-cid {cid} --name duende-vm-four"),
        "pepita signal --name duende-vm-four --signal 1".into(),
        "pepita status --name duende-vm-four --json".into(),
        "pepita destroy --name duende-vm-four --force".into(),
    ] {
        assert!(text.contains(&command), "{command:?} is not in:\n{text}");
    }
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_outlives_its_adapter_and_a_failed_one_says_how_it_failed() {
    let host = Host::new();
    let first = adapter(&host);
    let lasting =
        first.spawn(Box::new(Ticker { name: "Lasting Daemon", ..Ticker::default() })).await.expect("spawned");
    let three =
        Ticker { name: "three", args: &["--after", "300", "--exit", "3"], policy: Some(Restart::Never) };
    let three = first.spawn(Box::new(three)).await.expect("spawned");
    assert_ne!(lasting.vsock_cid(), three.vsock_cid());
    let again = first.spawn(Box::new(Ticker { name: "Lasting Daemon", ..Ticker::default() })).await;
    assert!(matches!(again, Err(AdapterError::Taken(_))), "{again:?}");
    let failed = until(&first, &three, |status| matches!(status, DaemonStatus::Failed(_))).await;
    assert!(matches!(&failed, DaemonStatus::Failed(ending) if ending.code() == Some(3)), "{failed:?}");
    let vmm = host.pepita(&["status", "--name", lasting.pepita_vm_id().unwrap(), "--json"]);

    // While the first adapter lives, a second adapter has a slot of its own and still sees every VM.
    let second = adapter(&host);
    assert_eq!(second.status(&lasting).await.expect("a status"), DaemonStatus::Running);
    assert!(matches!(second.find("Lasting Daemon").await, Err(AdapterError::NotFound(_))));

    first.leave().await;
    let third = adapter(&host);
    let found = third.find("Lasting Daemon").await.expect("found again");
    until(&third, &found, |status| *status == DaemonStatus::Running).await;
    let now = host.pepita(&["status", "--name", found.pepita_vm_id().unwrap(), "--json"]);
    let pid = |output: &std::process::Output| {
        serde_json::from_slice::<pepita_wire::StatusRecord>(&output.stdout).expect("a record").vmm_pid
    };
    assert_eq!(pid(&vmm), pid(&now), "the VM was not rebooted");
    third.destroy(found.pepita_vm_id().unwrap()).await.expect("destroyed");
    third.destroy(three.pepita_vm_id().unwrap()).await.expect("destroyed");
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nine_signals_reach_the_daemon_or_the_vm() {
    let host = Host::new();
    let adapter = adapter(&host);
    for (place, signal) in Signal::ALL.into_iter().enumerate() {
        if matches!(signal, Signal::Stop | Signal::Cont) {
            // This signal was tested in the documented usage.
            continue;
        }
        let names = ["hup", "int", "quit", "term", "kill", "usr1", "usr2"];
        let name = names[place];
        let daemon = Ticker { name, policy: Some(Restart::Never), ..Ticker::default() };
        let handle = adapter.spawn(Box::new(daemon)).await.expect("spawned");
        // The daemon is Ready: from now on it handles TERM and INT itself.
        let id = handle.pepita_vm_id().unwrap().to_owned();
        let ready = |host: &Host| {
            String::from_utf8_lossy(&host.pepita(&["status", "--name", &id]).stdout)
                .contains("\"state\": \"ready\"")
        };
        while !ready(&host) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        adapter.signal(&handle, signal).await.unwrap_or_else(|e| panic!("{signal:?}: {e}"));
        let status =
            until(&adapter, &handle, |s| matches!(s, DaemonStatus::Stopped | DaemonStatus::Failed(_))).await;
        let number = pepita_supervisor::spec::Signal::from(signal).number();
        match signal {
            Signal::Int | Signal::Term | Signal::Kill => {
                assert_eq!(status, DaemonStatus::Stopped, "{signal:?}")
            }
            _ => {
                let DaemonStatus::Failed(ending) = &status else { panic!("{signal:?}: {status:?}") };
                assert_eq!(ending.exit(), Some(&Exit::signal(number)), "{signal:?}");
            }
        }
        adapter.destroy(&id).await.expect("destroyed");
    }
    host.assert_nothing_left();
}

#[tokio::test]
async fn without_images_it_is_said_what_to_do() {
    let error = PepitaAdapter::new().spawn(Box::new(Ticker { name: "a", ..Ticker::default() })).await;
    let words = error.expect_err("refused").to_string();
    assert!(words.contains("with_images") && words.contains("pepita image build"), "{words}");
    let host = Host::new();
    let adapter = PepitaAdapter::with_images("/k", "/r").with_places("/nowhere/pepita", None, host.path("a"));
    let error =
        adapter.spawn(Box::new(Ticker { name: "a", ..Ticker::default() })).await.expect_err("refused");
    assert!(error.to_string().contains("/nowhere/pepita"), "{error}");
    assert!(select_adapter(Platform::PepitaMicroVM).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_section_takes_effect_inside_the_guest() {
    let host = Host::new();
    let (kernel, rootfs) = (guest("vmlinuz"), guest("ticker.ext4"));
    let section = format!(
        "[platform.pepita]\nvcpus = 2\nmemory_mb = 256\nkernel_path = {kernel:?}\nrootfs_path = {rootfs:?}\nvsock_base_port = 5000\n"
    );
    let file = host.path("pepita.toml");
    std::fs::write(&file, section).expect("written");
    assert_eq!(config::load(&file).expect("the file loads").machine.vcpus, 2);
    let adapter = PepitaAdapter::from_config(&file).expect("the file loads").with_places(
        pepita(),
        Some(host.path("r")),
        host.path("a"),
    );
    struct Look;
    impl Daemon for Look {
        fn name(&self) -> &str {
            "look"
        }
        fn command(&self) -> Option<String> {
            Some("/usr/bin/ticker".into())
        }
        fn args(&self) -> Vec<String> {
            ["--show", "cpus", "--show", "memory"].map(str::to_owned).into()
        }
    }
    let handle = adapter.spawn(Box::new(Look)).await.expect("spawned");
    let deadline = Instant::now() + crate::host::PATIENCE;
    let logs = loop {
        let logs = host.pepita(&["logs", "--name", handle.pepita_vm_id().unwrap()]);
        let logs = String::from_utf8_lossy(&logs.stdout).into_owned();
        if logs.contains("memory=") || Instant::now() > deadline {
            break logs;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(logs.contains("cpus=2"), "{logs}");
    let memory =
        logs.split("MemTotal:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    assert!(memory.is_some_and(|kb| (180_000..262_144).contains(&kb)), "{logs}");
    adapter.destroy(handle.pepita_vm_id().unwrap()).await.expect("destroyed");
    host.assert_nothing_left();
}
