//! The sockets that a VM's actors use, behind a trait: a test can play monitor and guest in memory, where time can be
//! held.

use super::dial::{self, Address, Stream};
use super::watch::{self, MonitorReport, Watch};
use pepita_wire::frame::Outcome;
use serde_json::Value;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;

/// A future in a box.
pub type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Who is told what a monitor reports.
pub type Tell = Box<dyn Fn(MonitorReport) + Send + Sync>;

/// The sockets of a VM: its monitor's and its guest's.
pub trait Sockets: fmt::Debug + Send + Sync + 'static {
    /// Watches a VM through its monitor, until it has ended or the monitor has.
    fn watch(&self, monitor: PathBuf, tell: Tell) -> Watch;
    /// Asks a monitor one thing.
    fn ask(&self, monitor: PathBuf, method: &'static str, params: Value) -> Boxed<Outcome>;
    /// Connects to a guest agent; comes with the token to greet it with, read from that file at each dial: a monitor
    /// that adopted the VM may have made a new one.
    fn dial(&self, guest: Address, token: PathBuf) -> Boxed<io::Result<(Box<dyn Stream>, String)>>;
}

/// The real ones.
#[derive(Debug, Clone, Copy)]
pub struct HostSockets;

impl Sockets for HostSockets {
    fn watch(&self, monitor: PathBuf, tell: Tell) -> Watch {
        watch::watch(monitor, tell)
    }

    fn ask(&self, monitor: PathBuf, method: &'static str, params: Value) -> Boxed<Outcome> {
        Box::pin(async move { watch::ask(&monitor, method, params).await })
    }

    fn dial(&self, guest: Address, token: PathBuf) -> Boxed<io::Result<(Box<dyn Stream>, String)>> {
        Box::pin(async move {
            let token = tokio::fs::read_to_string(&token).await?;
            Ok((dial::dial(guest).await?, token.trim().to_owned()))
        })
    }
}
