//! Simulates the launcher `pepita`.

use super::{Host, Machine, Plan, What, finish, record};
use pepita_supervisor::executor::argv::{CONFIG_LABEL, Launch};
use pepita_supervisor::executor::{Answer, ExecutorError, Pepita};
use pepita_supervisor::spec::{Signal, VmName};
use pepita_wire::record::{CallErrorKind, DaemonState};
use pepita_wire::{Exit, StatusRecord, VmState};
use std::time::Duration;
use tokio::time::sleep;

fn refused(kind: CallErrorKind, message: &str) -> ExecutorError {
    ExecutorError::Refused { kind, message: message.to_owned() }
}

fn none(vm: &VmName) -> ExecutorError {
    refused(CallErrorKind::NoSuchVm, &format!("no VM {}", vm.id()))
}

/// A call that is no launch, as long as it is under way.
struct UnderWay<'h>(&'h Host);

impl<'h> UnderWay<'h> {
    fn begin(host: &'h Host) -> Self {
        let mut world = host.world();
        world.under_way.0 += 1;
        world.under_way.1 = world.under_way.1.max(world.under_way.0);
        Self(host)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.world().under_way.0 -= 1;
    }
}

impl Pepita for Host {
    fn run<'a>(&'a self, launch: &'a Launch) -> Answer<'a, StatusRecord> {
        Box::pin(async move {
            let id = launch.spec.name.id().to_string();
            self.record_call(What::Run(launch.incarnation.0), &id);
            let plan = self.next_plan(&id, launch.incarnation.0);
            if let Some((other, fate)) = &plan.ends_other
                && self.alive().contains(other)
            {
                self.end(other, *fate);
            }
            match plan.launch {
                Some(time) => sleep(time).await,
                None => std::future::pending().await,
            }
            if let Some(kind) = plan.refusal {
                return Err(refused(kind, "as planned"));
            }
            let (serial, record) = self.make(launch, plan.clone())?;
            let (host, id) = (self.clone(), id);
            tokio::spawn(async move { host.live(&id, serial, plan).await });
            Ok(record)
        })
    }

    fn adopt<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord> {
        Box::pin(async move {
            let _under_way = UnderWay::begin(self);
            self.record_call(What::Adopt, vm.id().as_str());
            sleep(Duration::from_millis(2)).await;
            let mut world = self.world();
            let machine = world.machines.get_mut(vm.id().as_str()).ok_or_else(|| none(vm))?;
            if let Some(kind) = machine.plan.refusal {
                return Err(refused(kind, "as planned"));
            }
            machine.monitored = true;
            let record = machine.record.borrow().clone();
            Ok(record)
        })
    }

    fn status<'a>(&'a self, vm: &'a VmName) -> Answer<'a, StatusRecord> {
        Box::pin(async move {
            let _under_way = UnderWay::begin(self);
            self.world().questions += 1;
            sleep(Duration::from_millis(1)).await;
            let world = self.world();
            let machine = world.machines.get(vm.id().as_str()).ok_or_else(|| none(vm))?;
            Ok(machine.seen())
        })
    }

    fn destroy<'a>(&'a self, vm: &'a VmName) -> Answer<'a, ()> {
        Box::pin(async move {
            let _under_way = UnderWay::begin(self);
            let id = vm.id().as_str();
            self.record_call(What::Destroy, id);
            let time = self.world().machines.get(id).map(|machine| machine.plan.destroy);
            sleep(time.unwrap_or_default()).await;
            let Some(machine) = self.world().machines.remove(id) else { return Ok(()) };
            // The monitor reports the end before it goes.
            machine.record.send_if_modified(|record| {
                let runs = !record.state.is_terminal();
                if runs {
                    finish(record, Exit::Killed, None);
                    record.revision += 1;
                }
                runs
            });
            Ok(())
        })
    }

    fn signal<'a>(&'a self, vm: &'a VmName, signal: Signal) -> Answer<'a, ()> {
        Box::pin(async move {
            self.record_call(What::Signal(signal.number()), vm.id().as_str());
            if self.world().machines.contains_key(vm.id().as_str()) { Ok(()) } else { Err(none(vm)) }
        })
    }

    fn list(&self) -> Answer<'_, Vec<StatusRecord>> {
        Box::pin(async move {
            sleep(Duration::from_millis(1)).await;
            let world = self.world();
            Ok(world.machines.values().map(Machine::seen).collect())
        })
    }
}

impl Host {
    fn next_plan(&self, id: &str, incarnation: u64) -> Plan {
        let mut world = self.world();
        if let Some(plan) = world.numbered.get(&(id.to_owned(), incarnation)) {
            return plan.clone();
        }
        let next = world.plans.get_mut(id).and_then(std::collections::VecDeque::pop_front);
        next.or_else(|| world.defaults.get(id).cloned()).unwrap_or_default()
    }

    /// Claims name and CID, as the launcher does: a second claim is refused, and is a fault of the supervisor.
    fn make(&self, launch: &Launch, plan: Plan) -> Result<(u64, StatusRecord), ExecutorError> {
        let mut world = self.world();
        let id = launch.spec.name.id().to_string();
        if world.machines.get(&id).is_some_and(Machine::is_alive) {
            world
                .faults
                .push(format!("{} {} launched while another runs", launch.spec.name, launch.incarnation));
            return Err(refused(CallErrorKind::NameTaken, "the name is taken"));
        }
        let cid = launch.cid.get();
        let holder = world.claims.get(&cid).and_then(|holder| world.machines.get(holder));
        if holder.is_some_and(|m| m.is_alive() && m.record.borrow().vsock.cid == cid) {
            world.faults.push(format!("{}: CID {cid} is held already", launch.spec.name));
            return Err(refused(CallErrorKind::CidTaken, "the CID is taken"));
        }
        let mut record = record(launch.spec.name.as_str(), &launch.owner, launch.incarnation.0, cid);
        record.labels.insert(CONFIG_LABEL.into(), launch.spec.fingerprint());
        world.last_serial += 1;
        let serial = world.last_serial;
        world.claims.insert(cid, id.clone());
        world.machines.insert(id, Machine::new(serial, record.clone(), plan));
        Ok((serial, record))
    }

    /// Lets a VM boot, run and end as planned.
    async fn live(&self, id: &str, serial: u64, plan: Plan) {
        let Some(boot) = plan.boot else { return };
        sleep(boot).await;
        self.change(id, serial, |record| {
            record.state = VmState::Running;
            record.agent.ready = true;
            record.daemon.state = DaemonState::Running;
        });
        let ready = async {
            if let Some(ready) = plan.ready {
                sleep(ready).await;
                self.change(id, serial, |record| record.daemon.state = DaemonState::Ready);
            }
        };
        let end = async {
            if let Some((after, fate)) = plan.end {
                sleep(after).await;
                self.end_of(id, serial, fate);
            }
        };
        tokio::join!(ready, end);
    }
}
