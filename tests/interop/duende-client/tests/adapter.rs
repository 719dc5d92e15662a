//! duende-core 0.2.0's PepitaAdapter, unchanged, uses our `pepita` to boot, pause, signal, list and destroy real microVMs.
//! This is a program without a test harness, because the adapter finds `pepita` and the run directory through the
//! environment of its process.

use duende_client::{RemoteDaemon, until};
use duende_core::adapters::PepitaAdapter;
use duende_core::types::{DaemonStatus, Signal};
use duende_core::{PlatformAdapter, PlatformError};
use std::path::{Path, PathBuf};
use std::process::Command;

struct Place {
    pepita: PathBuf,
    dir: tempfile::TempDir,
}

impl Place {
    fn call(&self, args: &[&str]) -> String {
        let output = Command::new(&self.pepita).args(args).output().expect("pepita runs");
        assert!(output.status.success(), "pepita {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for name in self.call(&["list", "--format", "name"]).lines() {
            self.call(&["destroy", "--force", "--name", name]);
        }
    }
}

fn main() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().expect("the repository");
    let pepita = top.join("target/debug/pepita");
    let (kernel, rootfs) = (top.join(".guest/vmlinuz"), top.join(".guest/ticker.cpio"));
    assert!(pepita.exists(), "{} is missing: cargo build --workspace --bins", pepita.display());
    assert!(kernel.exists() && rootfs.exists(), "{} is missing: ./scripts/setup.sh", kernel.display());
    assert!(
        Path::new("/dev/kvm").exists(),
        "CANNOT RUN HERE: duende-core's adapter spawns nothing where /dev/kvm does not exist. \
         Any file of that name will do, our pepita judges for itself: `mknod /dev/kvm c 10 232` as root."
    );
    let dir = tempfile::Builder::new().prefix("dc").tempdir_in("/tmp").expect("a directory");
    let beside = pepita.parent().expect("a directory").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(std::iter::once(beside).chain(std::env::split_paths(&path))).expect("a PATH");
    // SAFETY: no other thread runs yet.
    unsafe {
        std::env::set_var("PATH", path);
        std::env::set_var("PEPITA_RUN_DIR", dir.path());
    }
    let place = Place { pepita, dir };
    let adapter = PepitaAdapter::with_images(kernel.to_string_lossy(), rootfs.to_string_lossy());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(drive(&place, &adapter));
    println!("duende-core's PepitaAdapter drove two microVMs from spawn to destroy: ok");
}

async fn drive(place: &Place, adapter: &PepitaAdapter) {
    // CIDs count from 3.
    let web = adapter.spawn(RemoteDaemon::new("my web")).await.expect("spawned");
    let store = adapter.spawn(RemoteDaemon::new("my_store")).await.expect("spawned");
    assert_eq!((web.pepita_vm_id(), web.vsock_cid()), (Some("duende-vm-my-web"), Some(3)));
    assert_eq!((store.pepita_vm_id(), store.vsock_cid()), (Some("duende-vm-my-store"), Some(4)));

    // This holds also while the guest still boots: a supervisor that read "stopped" would start the VM again.
    assert_eq!(adapter.status(&web).await.expect("known"), DaemonStatus::Running);
    let vm = place.dir.path().join("duende-vm-my-web");
    until(&vm, |status| status["daemon"]["state"] == "ready");
    assert_eq!(adapter.status(&web).await.expect("known"), DaemonStatus::Running);

    adapter.signal(&store, Signal::Stop).await.expect("paused");
    assert_eq!(adapter.status(&store).await.expect("known"), DaemonStatus::Paused);
    adapter.signal(&store, Signal::Cont).await.expect("resumed");
    assert_eq!(adapter.status(&store).await.expect("known"), DaemonStatus::Running);
    let mut listed = adapter.list_vms().await.expect("listed");
    listed.sort();
    assert_eq!(listed, ["duende-vm-my-store", "duende-vm-my-web"]);

    // A name that is taken is refused, and the CID of the refused VM stays free.
    let again = adapter.spawn(RemoteDaemon::new("my web")).await.expect_err("the daemon exists already");
    assert!(matches!(&again, PlatformError::SpawnFailed(why) if why.contains("taken")), "{again}");

    // A VM that another process has started takes the adapter's next CID.
    let ticker = place.pepita.with_file_name("ticker").to_string_lossy().into_owned();
    place.call(&[
        "run",
        "--vmm",
        "process",
        "--vsock-cid",
        "6",
        "--name",
        "other",
        "--daemon",
        "--",
        &ticker,
    ]);
    let clash = adapter.spawn(RemoteDaemon::new("third")).await.expect_err("CID 6 is taken");
    assert!(matches!(&clash, PlatformError::SpawnFailed(why) if why.contains("CID 6")), "{clash}");

    adapter.signal(&web, Signal::Term).await.expect("sent");
    let ended = until(&vm, |status| status["exit"].is_object());
    assert_eq!((&ended["exit"]["reason"], &ended["state"]), (&"completed".into(), &"stopped".into()));
    assert_eq!(adapter.status(&web).await.expect("known"), DaemonStatus::Stopped);
    adapter.signal(&web, Signal::Term).await.expect_err("the daemon has ended");

    // A client signals when it likes: the guest of this daemon still boots.
    let early = adapter.spawn(RemoteDaemon::new("early")).await.expect("spawned");
    assert_eq!(adapter.status(&early).await.expect("known"), DaemonStatus::Running);
    adapter.signal(&early, Signal::Term).await.expect("sent");
    let ended = until(&place.dir.path().join("duende-vm-early"), |status| status["exit"].is_object());
    assert_eq!((&ended["exit"]["reason"], &ended["state"]), (&"stop-requested".into(), &"stopped".into()));
    assert_eq!(adapter.status(&early).await.expect("known"), DaemonStatus::Stopped);

    adapter.signal(&store, Signal::Kill).await.expect("sent");
    for handle in [&web, &store, &early] {
        adapter.destroy(handle.pepita_vm_id().expect("a VM")).await.expect("destroyed");
        assert_eq!(adapter.status(handle).await.expect("known"), DaemonStatus::Stopped);
    }
    assert_eq!(adapter.list_vms().await.expect("listed"), ["other"]);
}
