//! Helps the test of duende-core's adapter: a daemon that is only a name, and a wait for a VM's status. The program of
//! the daemon is in the guest's image; the adapter passes on the name alone.

use async_trait::async_trait;
use duende_core::{Daemon, DaemonConfig, DaemonContext, DaemonId, DaemonMetrics, ExitReason, HealthStatus};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A daemon whose program runs in a VM.
pub struct RemoteDaemon {
    id: DaemonId,
    name: String,
    metrics: DaemonMetrics,
}

impl RemoteDaemon {
    /// Returns a daemon of this name.
    pub fn new(name: &str) -> Box<Self> {
        Box::new(Self { id: DaemonId::new(), name: name.to_owned(), metrics: DaemonMetrics::new() })
    }
}

#[async_trait]
impl Daemon for RemoteDaemon {
    fn id(&self) -> DaemonId {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
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

/// Waits until the status of the VM in the folder `vm` is as wanted, by a long poll over its monitor's socket. A monitor that
/// has ended with its VM answers nobody any more; `pepita status` tells what is left then.
pub fn until(vm: &Path, wanted: impl Fn(&Value) -> bool) -> Value {
    let watched = UnixStream::connect(vm.join("ctl.sock")).and_then(|stream| watch(stream, &wanted));
    watched.unwrap_or_else(|gone| {
        let name = vm.file_name().expect("a name");
        let output = Command::new("pepita").args(["status", "--json", "--name"]).arg(name).output();
        let status: Value = serde_json::from_slice(&output.expect("pepita runs").stdout).expect("JSON");
        assert!(wanted(&status), "the monitor is gone ({gone}): {status}");
        status
    })
}

fn watch(mut stream: UnixStream, wanted: impl Fn(&Value) -> bool) -> std::io::Result<Value> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut since = 0;
    loop {
        writeln!(stream, r#"{{"id":1,"method":"watch","params":{{"since":{since}}}}}"#)?;
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        let status = &answer["ok"];
        if wanted(status) {
            return Ok(status.clone());
        }
        since = status["generation"].as_u64().expect("a generation");
    }
}
