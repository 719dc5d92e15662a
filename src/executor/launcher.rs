//! The calls of the launcher `pepita`, and the trait that lets a test replace the launcher.

use super::ExecutorError;
use super::argv::{self, Launch};
use super::process::{self, CallFailure};
use super::server::Server;
use crate::spec::{Signal, Uids, VmName};
use futures_core::future::BoxFuture;
use pepita_wire::image::ImageRecord;
use pepita_wire::launch::JAIL_UIDS_ENVIRONMENT;
use pepita_wire::record::CallError;
use pepita_wire::serve::LaunchAnswer;
use pepita_wire::storage::{CHECK_DEADLINE, DISK_ENVIRONMENT};
use pepita_wire::{StatusRecord, VersionRecord, rundir};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The time limit of a call that only asks a question or ends a VM.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// The longest time limit of a launch, however much time the VM has to get Ready (semantics 7.4): on return the VMM runs and
/// the guest still boots.
const LAUNCH_DEADLINE: Duration = Duration::from_secs(60);

/// The time limit for bringing an image to this host. The program that does it gives up long before when nothing
/// arrives.
const PREPARE_DEADLINE: Duration = Duration::from_secs(3600);

/// The future of a call.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ExecutorError>>;

/// The calls of the launcher. [`Launcher`] calls the program; a test may replace it, and all code above stays the same.
pub trait Pepita: fmt::Debug + Send + Sync + 'static {
    /// Returns when this process has what it takes to launch one more VM and to watch it.
    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Brings a container image to this host when it is not here. Returns the digest of its manifest. This may take as long
    /// as a download takes.
    fn prepare<'a>(&'a self, image: &'a str) -> Answer<'a, String> {
        Box::pin(std::future::ready(Ok(image.to_owned())))
    }
    /// Boots a VM. Returns when its VMM runs and its monitor watches it.
    fn run<'a>(&'a self, launch: &'a Launch) -> Answer<'a, StatusRecord>;
    /// Makes sure that a VM has a monitor.
    fn adopt<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord>;
    /// Returns the record of a VM.
    fn status<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord>;
    /// Kills a VM at once and removes all traces of it.
    fn destroy<'a>(&'a self, vm: &'a VmName) -> Answer<'a, ()>;
    /// Sends the daemon of a VM a signal.
    fn signal<'a>(&'a self, vm: &'a VmName, signal: Signal) -> Answer<'a, ()>;
    /// Returns the record of every VM on this host, also the VMs of other supervisors.
    fn list(&self) -> Answer<'_, Vec<StatusRecord>>;
}

/// The launcher as a program. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    run_dir: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    disk_dir: Option<PathBuf>,
    jail_uids: Option<String>,
    server: Server,
}

impl Launcher {
    /// Makes a launcher from a program that was found, with the directory of its run directories.
    pub fn new(program: PathBuf, run_dir: Option<PathBuf>) -> Self {
        Self { program, run_dir, log_dir: None, disk_dir: None, jail_uids: None, server: Server::default() }
    }

    /// Returns the variables that are added to the environment of each call.
    fn environment(&self) -> Vec<(&'static str, &OsStr)> {
        let dirs = [
            (rundir::ENVIRONMENT, &self.run_dir),
            (rundir::LOG_ENVIRONMENT, &self.log_dir),
            (DISK_ENVIRONMENT, &self.disk_dir),
        ];
        let dirs = dirs.into_iter().filter_map(|(name, dir)| Some((name, dir.as_deref()?.as_os_str())));
        let jail_uids = self.jail_uids.as_deref().map(|uids| (JAIL_UIDS_ENVIRONMENT, OsStr::new(uids)));
        dirs.chain(jail_uids).collect()
    }

    /// Adds the directory in which the launcher keeps the logs of consoles; `None` for the run directories.
    #[must_use]
    pub fn with_log_dir(self, log_dir: Option<PathBuf>) -> Self {
        Self { log_dir, ..self }
    }

    /// Adds the directory in which the launcher keeps the disks of VMs; `None` for the one that it chooses itself.
    #[must_use]
    pub fn with_disk_dir(self, disk_dir: Option<PathBuf>) -> Self {
        Self { disk_dir, ..self }
    }

    /// Adds the user ids that root's VMs get for their jails; `None` for those that the launcher chooses itself.
    #[must_use]
    pub fn with_jail_uids(self, jail_uids: Option<Uids>) -> Self {
        Self { jail_uids: jail_uids.map(|uids| uids.to_string()), ..self }
    }

    /// Makes sure that the program is the `pepita` of this project. Exit code 0 proves nothing: other programs have
    /// that name, too.
    ///
    /// # Errors
    /// Returns an error when the program prints no version record, or one of another version.
    pub async fn verify(&self) -> Result<VersionRecord, ExecutorError> {
        let foreign = |what: String| ExecutorError::NotPepita { program: self.program.clone(), what };
        let output = self.output(argv::version(), Vec::new(), CALL_DEADLINE).await?;
        let record: VersionRecord = serde_json::from_slice(&output.stdout)
            .map_err(|_| foreign("`--version --json` printed no version record".into()))?;
        if record.name != "pepita-launcher" {
            return Err(foreign(format!("its version record names {:?}", record.name)));
        }
        if record.contract != pepita_wire::CLI_VERSION || record.additions < pepita_wire::CLI_ADDITIONS {
            let theirs = format!("{}.{}", record.contract, record.additions);
            return Err(ExecutorError::Contract { program: self.program.clone(), theirs });
        }
        Ok(record)
    }

    /// Has launches made by a launch server, if the verified launcher has one. Without this every launch is a call of
    /// `pepita run`, which the adapter promises.
    pub(crate) async fn use_server(&self, record: &VersionRecord) {
        if record.serves {
            self.server.enable().await;
            let (launcher, server) = (self.clone(), self.server.clone());
            tokio::spawn(async move { server.start(&launcher.program, &launcher.environment()).await });
        }
    }

    async fn output(
        &self,
        argv: Vec<OsString>,
        stdin: Vec<u8>,
        deadline: Duration,
    ) -> Result<process::Output, ExecutorError> {
        let shown = argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        tracing::debug!(target: "pepita_supervisor::executor", "pepita {shown}");
        let failed = |what: String| ExecutorError::Unanswered { program: self.program.clone(), what };
        let output =
            process::call(&self.program, &self.environment(), argv, stdin, deadline).await.map_err(|e| {
                match e {
                    e @ CallFailure::NotStarted(_) => {
                        ExecutorError::Call { program: self.program.clone(), what: e.to_string() }
                    }
                    e @ (CallFailure::Io(_) | CallFailure::Timeout(_)) => failed(e.to_string()),
                }
            })?;
        if output.status.success() {
            return Ok(output);
        }
        let last = output.stderr.lines().last().unwrap_or_default();
        match serde_json::from_str::<pepita_wire::record::CallError>(last) {
            Ok(error) => Err(ExecutorError::Refused { kind: error.kind, message: error.message }),
            Err(_) => Err(failed(format!("{}: {}", output.status, output.stderr))),
        }
    }

    async fn record<T: serde::de::DeserializeOwned>(
        &self,
        argv: Vec<OsString>,
        stdin: Vec<u8>,
        deadline: Duration,
    ) -> Result<T, ExecutorError> {
        let output = self.output(argv, stdin, deadline).await?;
        serde_json::from_slice(&output.stdout).map_err(|e| ExecutorError::NotPepita {
            program: self.program.clone(),
            what: format!("the call exited with 0 but printed no record: {e}"),
        })
    }
}

impl Pepita for Launcher {
    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(super::reserve::room())
    }

    fn prepare<'a>(&'a self, image: &'a str) -> Answer<'a, String> {
        Box::pin(async move {
            let record: ImageRecord = self.record(argv::prepare(image), Vec::new(), PREPARE_DEADLINE).await?;
            Ok(record.digest)
        })
    }

    fn run<'a>(&'a self, launch: &'a Launch) -> Answer<'a, StatusRecord> {
        // A disk that was not unmounted is checked first, which takes as long as it takes.
        let checks = if launch.spec.disks.is_empty() { Duration::ZERO } else { CHECK_DEADLINE };
        let limit = LAUNCH_DEADLINE.min(launch.limit) + checks;
        Box::pin(async move {
            let order = argv::order(launch);
            match self.server.launch(&self.program, &self.environment(), &order, limit).await {
                Some(Ok(LaunchAnswer::Up(status))) => Ok(*status),
                Some(Ok(LaunchAnswer::Failed(CallError { kind, message, .. }))) => {
                    Err(ExecutorError::Refused { kind, message })
                }
                Some(Err(e)) => {
                    Err(ExecutorError::Unanswered { program: self.program.clone(), what: e.to_string() })
                }
                None => {
                    let specification = serde_json::to_vec(&argv::specification(launch));
                    let specification = specification.expect("the specification is JSON");
                    self.record(argv::run(launch), specification, limit).await
                }
            }
        })
    }

    fn adopt<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord> {
        Box::pin(self.record(argv::adopt(vm.id()), Vec::new(), CALL_DEADLINE))
    }

    fn status<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord> {
        Box::pin(self.record(argv::status(vm.id()), Vec::new(), CALL_DEADLINE))
    }

    fn destroy<'a>(&'a self, vm: &'a VmName) -> Answer<'a, ()> {
        Box::pin(
            async move { self.output(argv::destroy(vm.id()), Vec::new(), CALL_DEADLINE).await.map(drop) },
        )
    }

    fn signal<'a>(&'a self, vm: &'a VmName, signal: Signal) -> Answer<'a, ()> {
        Box::pin(async move {
            self.output(argv::signal(vm.id(), signal), Vec::new(), CALL_DEADLINE).await.map(drop)
        })
    }

    fn list(&self) -> Answer<'_, Vec<StatusRecord>> {
        Box::pin(self.record(argv::list(), Vec::new(), CALL_DEADLINE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Asks a launcher that prints this version record.
    async fn verify(record: &str) -> Result<VersionRecord, ExecutorError> {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("pepita");
        std::fs::write(&program, format!("#!/bin/sh\necho '{record}'\n")).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        Launcher::new(program, None).verify().await
    }

    #[tokio::test]
    async fn a_launcher_that_lacks_what_is_called_is_refused_before_the_first_launch() {
        let older = verify(r#"{"name":"pepita-launcher","version":"0.1.0","contract":1}"#).await;
        assert!(matches!(older, Err(ExecutorError::Contract { theirs, .. }) if theirs == "1.0"));
        let other = verify(r#"{"name":"pepita-launcher","version":"9","contract":2,"additions":9}"#).await;
        assert!(matches!(other, Err(ExecutorError::Contract { theirs, .. }) if theirs == "2.9"));
        let newer =
            verify(r#"{"name":"pepita-launcher","version":"0.2.0","contract":1,"additions":9}"#).await;
        assert_eq!(newer.expect("accepted").additions, 9);
        let foreign = verify(r#"{"name":"pepita","version":"0.1.1"}"#).await;
        assert!(matches!(foreign, Err(ExecutorError::NotPepita { .. })));
    }
}
