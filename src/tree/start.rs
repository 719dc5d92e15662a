//! Starts a tree: reads the present state, destroys the VMs that are in no configuration, and spawns the root.

use super::error::{Progress, StartError, TreeEnd};
use super::root::{Outcome, Root, RootArgs, RootMsg};
use super::survey::Survey;
use super::unseparated::unseparated;
use crate::executor::{ExecutorMsg, Launcher, Pepita, Runner};
use crate::journal::{Journal, Unreadable};
use crate::observe::{Bus, EventKind, Events, StatusTable};
use crate::spec::{Orphans, TreeSpec, VmName};
use crate::vm::{HostSockets, Sockets};
use ractor::{Actor, ActorRef};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The state that all handles to one tree share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) name: Arc<str>,
    pub(super) root: ActorRef<RootMsg>,
    pub(super) bus: Bus,
    pub(super) status_table: StatusTable,
    pub(super) journal: Journal,
    /// The events from the start of the tree, for the first reader.
    pub(super) first: Mutex<Option<Events>>,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) end: watch::Receiver<Option<TreeEnd>>,
    pub(super) runner: Runner,
}

/// The tree's access to the launcher and to sockets. A test supplies its own.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Calls the launcher.
    pub pepita: Arc<dyn Pepita>,
    /// Opens connections to monitors and guests.
    pub sockets: Arc<dyn Sockets>,
}

impl Parts {
    /// Returns what a tree on this host uses, with a launcher that was found.
    pub(crate) fn host(launcher: Launcher) -> Self {
        Self { pepita: Arc::new(launcher), sockets: Arc::new(HostSockets) }
    }
}

pub(super) async fn start(spec: TreeSpec, journal: Journal, parts: Parts) -> Result<Inner, StartError> {
    let runner = Runner::new(parts.pepita, spec.max_parallel_launches, spec.name.as_str().into());
    let records = runner.ask(|reply| ExecutorMsg::List { reply }).await?;
    let survey = Survey::of(&records, &spec, |vm| journal.ended(vm));
    if spec.orphans == Orphans::Refuse && !survey.running.is_empty() {
        return Err(StartError::Orphans(survey.running));
    }
    let (bus, status_table) = (Bus::new(journal.store()), StatusTable::new());
    let first = bus.subscribe();
    for Unreadable { vm, why, aside } in journal.unreadable() {
        let text = format!("its stored state cannot be read: {why}; the file is kept as {}", aside.display());
        bus.tell(None, EventKind::Notice { vm: Some(vm.clone()), text });
    }
    if let Some(text) = unseparated(None, &spec) {
        bus.tell(None, EventKind::Notice { vm: None, text });
    }
    clear(&runner, &survey, &bus).await;
    remove_unknown(&journal, &spec);
    let name: Arc<str> = spec.name.as_str().into();
    let (progress, seen) = watch::channel(Progress::Starting);
    let (told, end) = watch::channel(None);
    let outcome = Outcome::default();
    let args = RootArgs {
        spec,
        survey,
        runner: runner.clone(),
        sockets: parts.sockets,
        journal: journal.clone(),
        bus: bus.clone(),
        status_table: status_table.clone(),
        progress,
        outcome: outcome.clone(),
    };
    let spawned = Actor::spawn(None, Root, args).await;
    let (root, running) = spawned.map_err(|e| StartError::Actor(e.to_string()))?;
    let (after, kept) = (bus.clone(), journal.clone());
    let trouble = journal.trouble().map(|trouble| tokio::spawn(tell_trouble(trouble, bus.clone())));
    tokio::spawn(async move {
        // An error says that the root's task was aborted, together with its runtime.
        let _ = running.await;
        let lost = || TreeEnd::Failed { reason: "the root actor failed; the VMs run on".into() };
        let end = outcome.get().unwrap_or_else(lost);
        journal.close().await;
        if let Some(trouble) = trouble {
            trouble.abort();
        }
        after.close();
        told.send_replace(Some(end));
    });
    let first = Mutex::new(Some(first));
    Ok(Inner { name, root, bus, status_table, journal: kept, first, progress: seen, end, runner })
}

/// Tells when the state cannot be saved, and when it is saved again. Ends with the journal.
async fn tell_trouble(mut trouble: watch::Receiver<Option<String>>, bus: Bus) {
    let mut told = false;
    loop {
        let why = trouble.borrow_and_update().clone();
        if why.is_some() != told {
            told = why.is_some();
            let text = match why {
                Some(why) => {
                    let text = format!(
                        "nothing can be saved: {why}; the supervision goes on, and all is saved when the disk takes it"
                    );
                    tracing::error!("{text}");
                    text
                }
                None => "all is saved again".to_owned(),
            };
            bus.tell(None, EventKind::Notice { vm: None, text });
        }
        if trouble.changed().await.is_err() {
            return;
        }
    }
}

/// Destroys the VMs that are in no configuration, and removes the traces of VMs that have ended, before any VM is
/// started: a VM of the same name, or with the same CID, may be about to start.
async fn clear(runner: &Runner, survey: &Survey, bus: &Bus) {
    let notice = |vm: &VmName, text: String| {
        bus.tell(None, EventKind::Notice { vm: Some(vm.clone()), text });
    };
    for vm in &survey.orphans {
        notice(vm, "was left by a previous run and is not wanted any more; it is destroyed".into());
    }
    let mut calls = JoinSet::new();
    for vm in survey.destroy.clone() {
        let runner = runner.clone();
        calls.spawn(async move {
            let done = runner.ask(|reply| ExecutorMsg::Destroy { vm: vm.clone(), reply }).await;
            (vm, done)
        });
    }
    while let Some(call) = calls.join_next().await {
        if let Ok((vm, Err(e))) = call {
            notice(&vm, format!("cannot be destroyed: {e}"));
        }
    }
}

/// Removes the VMs that are in no configuration any more from the journal.
fn remove_unknown(journal: &Journal, spec: &TreeSpec) {
    let known: BTreeSet<&VmName> =
        spec.groups.iter().flat_map(|group| &group.vms).map(|vm| &vm.name).collect();
    for vm in journal.remembered().keys().filter(|vm| !known.contains(vm)) {
        journal.remove(vm);
    }
}
