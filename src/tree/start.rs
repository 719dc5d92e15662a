//! Starts a tree: reads the present state, destroys the VMs that are in no configuration, and spawns the root.

use super::change::Removal;
use super::error::{Progress, StartError, TreeEnd};
use super::root::{Outcome, Root, RootArgs, RootMsg};
use super::survey::{Known, Survey};
use super::unseparated::unseparated;
use crate::actor::now;
use crate::claim::{Claim, ClaimError};
use crate::executor::{ExecutorError, ExecutorMsg, Launcher, Pepita, Runner, find};
use crate::journal::{Journal, Unreadable};
use crate::observe::{Bus, EventKind, Events, StatusTable};
use crate::ports::Ports;
use crate::spec::{Orphans, Removals, TreeSpec, VmName};
use crate::vm::{HostSockets, Sockets};
use pepita_wire::StatusRecord;
use ractor::{Actor, ActorRef};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The time that a start waits until the remains of a previous run are removed.
const CLEAR_PATIENCE: Duration = Duration::from_secs(2);

/// The time in which the launcher's list is asked for again when that fails for a reason that may pass, and the delay before
/// each request.
const LIST_PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_LISTS: Duration = Duration::from_secs(1);

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
    /// The directory of run directories, in which the tree claims its name. `None`: the launcher does not tell it, and
    /// no claim is made.
    pub run_dir: Option<PathBuf>,
}

impl Parts {
    /// Returns what a tree on this host uses, with a launcher that was found and its directory of run directories.
    pub(crate) fn host(launcher: Launcher, run_dir: Option<PathBuf>) -> Self {
        Self { pepita: Arc::new(launcher), sockets: Arc::new(HostSockets), run_dir }
    }

    /// Claims the name of a supervisor among all supervisors that use the same directory of run directories.
    pub(crate) async fn claim(&self, owner: &str) -> Result<Option<Arc<Claim>>, ClaimError> {
        let Some(run_dir) = self.run_dir.clone() else { return Ok(None) };
        let (owner, path) = (owner.to_owned(), run_dir.clone());
        let claimed = tokio::task::spawn_blocking(move || Claim::take(&run_dir, &owner)).await;
        let lost = |e| Err(ClaimError::Io { path, source: std::io::Error::other(e) });
        claimed.unwrap_or_else(lost).map(|claim| Some(Arc::new(claim)))
    }
}

/// Asks for the launcher's list, and again when a lack of processes, descriptors or memory has kept the launcher from
/// answering: without the list a supervisor cannot start.
async fn listed<L>(mut list: impl FnMut() -> L) -> Result<Vec<StatusRecord>, ExecutorError>
where
    L: Future<Output = Result<Vec<StatusRecord>, ExecutorError>>,
{
    let until = now() + LIST_PATIENCE;
    loop {
        match list().await {
            Err(e) if e.is_recoverable() && now() < until => {
                tracing::warn!("the launcher cannot list the VMs yet, and is asked again: {e}");
                tokio::time::sleep(BETWEEN_LISTS).await;
            }
            done => return done,
        }
    }
}

/// Refuses a start while VMs of this supervisor run in the directory of run directories that it used before.
async fn check_former_run_dirs(spec: &TreeSpec, journal: &Journal, parts: &Parts) -> Result<(), StartError> {
    let Some(run_dir) = &parts.run_dir else { return Ok(()) };
    for (place, vms) in journal.elsewhere(run_dir) {
        let launcher = Launcher::new(find(&spec.pepita)?, Some(place.clone()));
        let records = listed(|| launcher.list()).await?;
        let runs = |vm: &VmName| {
            let is_it = |record: &&StatusRecord| VmName::from_id(&record.name).as_ref() == Some(vm);
            records.iter().find(is_it).is_some_and(|record| !record.state.is_terminal())
        };
        let vms: Vec<VmName> = vms.into_iter().filter(runs).collect();
        if !vms.is_empty() {
            return Err(StartError::Elsewhere { run_dir: place, vms });
        }
    }
    journal.set_run_dir(run_dir.clone());
    Ok(())
}

/// Returns what a start would remove, if VMs that run are killed and these are all VMs that run, or more than half of them,
/// or if that holds for the VMs that this supervisor knows: of those that the file lacks some may not run at the moment.
fn grave_removals<'v>(
    spec: &TreeSpec,
    survey: &'v Survey,
    remembered: impl Iterator<Item = &'v VmName>,
) -> Option<Removals> {
    if survey.orphans.is_empty() {
        return None;
    }
    let of_running = Removals { vms: survey.orphans.clone(), of: survey.running.len() - survey.left.len() };
    let configured: BTreeSet<&VmName> =
        spec.groups.iter().flat_map(|group| &group.vms).map(|vm| &vm.name).collect();
    let left: BTreeSet<&VmName> = survey.left.iter().collect();
    let known: BTreeSet<&VmName> =
        survey.running.iter().filter(|vm| !left.contains(vm)).chain(remembered).collect();
    let gone = known.iter().filter(|vm| !configured.contains(*vm)).map(|vm| (*vm).clone()).collect();
    let of_known = Removals { vms: gone, of: known.len() };
    [of_running, of_known].into_iter().find(Removals::are_grave)
}

/// Starts a tree whose journal is open and whose name is claimed.
pub(super) async fn start(
    spec: TreeSpec,
    removal: Removal,
    journal: Journal,
    claim: Option<Arc<Claim>>,
    parts: Parts,
    ports: Ports,
) -> Result<Inner, StartError> {
    check_former_run_dirs(&spec, &journal, &parts).await?;
    let spec = spec.with_reached_ports(parts.run_dir.as_deref());
    let owner = spec.name.as_str().into();
    let runner = Runner::new(parts.pepita, spec.max_parallel_launches, owner, claim.clone(), ports);
    let records = listed(|| runner.ask(|reply| ExecutorMsg::List { reply })).await?;
    let remembered = journal.remembered();
    let known = |vm: &VmName| {
        let newest = remembered.get(vm).map(|remembered| remembered.incarnation);
        Known { newest, ended: journal.ended(vm) }
    };
    let survey = Survey::of(&records, &spec, known);
    for (vm, incarnation) in &survey.ours {
        runner.own(vm, *incarnation);
    }
    let ours: BTreeSet<&VmName> = survey.ours.iter().map(|(vm, _)| vm).collect();
    for record in &records {
        if let Some(vm) = VmName::from_id(&record.name).filter(|vm| ours.contains(vm)) {
            runner.expect(vm, record.clone());
        }
    }
    if spec.orphans == Orphans::Refuse && !survey.running.is_empty() {
        return Err(StartError::Orphans(survey.running));
    }
    if spec.orphans == Orphans::Adopt
        && removal == Removal::OfFew
        && let Some(removals) = grave_removals(&spec, &survey, remembered.keys())
    {
        return Err(StartError::Removal(removals));
    }
    let published = spec.groups.iter().flat_map(|group| &group.vms).flat_map(|vm| &vm.publish);
    runner.close_ports_but(published);
    let (bus, status_table) = (Bus::new(journal.store()), StatusTable::new());
    let first = bus.subscribe();
    for Unreadable { vm, why, aside } in journal.unreadable() {
        let text = format!("its stored state cannot be read: {why}; the file is kept as {}", aside.display());
        bus.tell(None, EventKind::Notice { vm: Some(vm.clone()), text });
    }
    if let Some(text) = unseparated(None, &spec) {
        bus.tell(None, EventKind::Notice { vm: None, text });
    }
    clear(&runner, &survey, &journal, &bus, &spec).await;
    for vm in &survey.left {
        let text = format!(
            "runs, and has the name of this supervisor as its owner, but is in no configuration, and no state of this \
             supervisor knows it; it is left as it is, and `pepita destroy --name {}` removes it",
            vm.id()
        );
        bus.tell(None, EventKind::Notice { vm: Some(vm.clone()), text });
    }
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
        // No actor is left, and no write is pending: another supervisor of this name may start.
        if let Some(claim) = claim {
            claim.release();
        }
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
/// started: a VM of the same name, or with the same CID, may be about to start. What takes longer than
/// [`CLEAR_PATIENCE`] goes on beside the start: calls about one VM keep their order, and the launcher gives no CID twice.
async fn clear(runner: &Runner, survey: &Survey, journal: &Journal, bus: &Bus, spec: &TreeSpec) {
    for vm in &survey.orphans {
        let text = "was left by a previous run and is not wanted any more; it is destroyed".into();
        bus.tell(None, EventKind::Notice { vm: Some(vm.clone()), text });
    }
    let configured: BTreeSet<&VmName> =
        spec.groups.iter().flat_map(|group| &group.vms).map(|vm| &vm.name).collect();
    let mut calls = Vec::new();
    for vm in survey.destroy.clone() {
        let (runner, journal, bus) = (runner.clone(), journal.clone(), bus.clone());
        let forget = !configured.contains(&vm);
        calls.push(tokio::spawn(async move {
            match runner.ask(|reply| ExecutorMsg::Destroy { vm: vm.clone(), reply }).await {
                Ok(()) if forget => journal.remove(&vm),
                Ok(()) => {}
                // The state still knows the VM, so that the next start tries again.
                Err(e) => {
                    let text = format!("cannot be destroyed: {e}");
                    bus.tell(None, EventKind::Notice { vm: Some(vm), text });
                }
            }
        }));
    }
    let all = async {
        for call in calls {
            // An error says that the runtime ends.
            let _ = call.await;
        }
    };
    let _ = tokio::time::timeout(CLEAR_PATIENCE, all).await;
    let destroyed: BTreeSet<&VmName> = survey.destroy.iter().collect();
    for vm in journal.remembered().keys() {
        if !configured.contains(vm) && !destroyed.contains(vm) {
            journal.remove(vm);
        }
    }
}
