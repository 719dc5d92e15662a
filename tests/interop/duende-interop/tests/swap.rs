//! The code of a duende user with one line swapped, against a real microVM.

use async_trait::async_trait;
use duende_core::types::{DaemonStatus, FailureReason, Signal};
use duende_core::{
    Daemon, DaemonConfig, DaemonContext, DaemonId, DaemonMetrics, ExitReason, HealthStatus, PlatformAdapter,
};
use duende_interop::PepitaAdapter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct Elsewhere {
    id: DaemonId,
    metrics: DaemonMetrics,
}

#[async_trait]
impl Daemon for Elsewhere {
    fn id(&self) -> DaemonId {
        self.id
    }
    fn name(&self) -> &str {
        "my_daemon"
    }
    async fn init(&mut self, _: &DaemonConfig) -> duende_core::Result<()> {
        Ok(())
    }
    async fn run(&mut self, _: &mut DaemonContext) -> duende_core::Result<ExitReason> {
        Ok(ExitReason::Graceful)
    }
    async fn shutdown(&mut self, _: Duration) -> duende_core::Result<()> {
        Ok(())
    }
    async fn health_check(&self) -> HealthStatus {
        HealthStatus::healthy(0)
    }
    fn metrics(&self) -> &DaemonMetrics {
        &self.metrics
    }
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().expect("the repository")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duende_user_swaps_one_line() {
    let dir = tempfile::Builder::new().prefix("di").tempdir_in("/tmp").expect("a directory");
    let images = [top().join(".guest/vmlinuz"), top().join(".guest/ticker.cpio")];
    assert!(
        images.iter().all(|path| path.exists()),
        "run `make setup` first: this test boots a real microVM"
    );
    let [kernel, rootfs] = images;
    let ours = pepita_supervisor::adapter::PepitaAdapter::with_images(kernel, rootfs);
    let (pepita, run_dir) = (top().join("target/debug/pepita"), dir.path().join("r"));
    let adapter = PepitaAdapter::from(ours.with_places(pepita, Some(run_dir), dir.path().join("a")));

    let daemon = Elsewhere { id: DaemonId::new(), metrics: DaemonMetrics::new() };
    let handle = adapter.spawn(Box::new(daemon)).await.expect("spawned");
    assert!(handle.pepita_vm_id().is_some_and(|id| id.starts_with("duende-vm-my-daemon")));
    assert_eq!(adapter.status(&handle).await.expect("a status"), DaemonStatus::Running);
    adapter.attach_tracer(&handle).await.expect("a handle");
    // The daemon dies of this signal. The daemon is supervised with on-failure, so that it is restarted.
    adapter.signal(&handle, Signal::Usr1).await.expect("signalled");
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut seen = Vec::new();
    loop {
        let status = adapter.status(&handle).await.expect("a status");
        if seen.last() != Some(&status) {
            seen.push(status.clone());
        }
        if seen.len() > 1 && status == DaemonStatus::Running {
            break;
        }
        assert!(!matches!(status, DaemonStatus::Failed(FailureReason::Internal)), "{seen:?}");
        assert!(Instant::now() < deadline, "the daemon was not restarted: {seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let id = handle.pepita_vm_id().expect("an id").to_owned();
    assert_eq!(adapter.list_vms().await.expect("a list"), [id.clone()]);
    adapter.destroy(&id).await.expect("destroyed");
    assert_eq!(adapter.status(&handle).await.expect("a status"), DaemonStatus::Stopped);
    assert_eq!(adapter.list_vms().await.expect("a list"), [] as [String; 0]);
}
