//! A scenario: a tree, and what happens to it. Knows neither OTP nor this project's supervisor, but how each of them
//! spells a value.

use pepita_supervisor::spec::{AutoShutdown, Restart, Strategy};
use std::fmt::Write as _;

/// A tree and the steps that are taken with it.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    /// Whether each group comes after the one before it.
    pub(crate) chained: bool,
    pub(crate) intensity: Intensity,
    pub(crate) groups: Vec<Group>,
    pub(crate) steps: Vec<Step>,
    /// The time that this project's tree is given after each step, by its paused clock.
    pub(crate) settled_ms: u64,
    /// Whether OTP is to hold down what the operator has stopped: its start function then declines to start it.
    pub(crate) stopped_stay_down: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Intensity {
    pub(crate) restarts: u32,
    pub(crate) period_s: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) strategy: Strategy,
    pub(crate) intensity: Intensity,
    pub(crate) auto_shutdown: AutoShutdown,
    /// Whether the group starts afresh after too many restarts: in OTP a permanent child of the root, else a transient
    /// one.
    pub(crate) escalates: bool,
    pub(crate) vms: Vec<Vm>,
}

#[derive(Debug, Clone)]
pub(crate) struct Vm {
    pub(crate) name: String,
    pub(crate) restart: Restart,
    pub(crate) significant: bool,
    pub(crate) stop: Stop,
    /// What happens at the start with this number, the first being 1.
    pub(crate) starts: Vec<(u64, Start)>,
}

/// How a VM behaves when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ends when it is asked to.
    Graceful,
    /// It ignores that, and is killed after its grace.
    Deaf,
    /// It is killed without being asked (`brutal_kill`; a stop timeout of 0 s).
    Brutal,
}

/// What happens at a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// The start fails.
    Fails,
    /// Another VM ends while this one is being started.
    EndOf { other: String, exit: Exit },
}

/// How a VM ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Normal,
    /// OTP's reason `{shutdown, _}`: another clean end. Here another exit code of `success_exit_codes`.
    Shutdown,
    Failed,
    Killed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// These VMs of one group end, in this order, before their supervisor acts.
    Exits(Vec<(String, Exit)>),
    /// The operator stops a VM.
    Stop(String),
    /// The operator starts a VM.
    Start(String),
    /// Time passes without a failure.
    Pass { ms: u64 },
    /// OTP waits for the beginning of a second of its clock.
    NextSecond,
    /// The whole tree is stopped.
    Finish,
}

impl Scenario {
    /// Returns the group of a VM.
    pub(crate) fn group_of(&self, vm: &str) -> &Group {
        let has = |group: &&Group| group.vms.iter().any(|known| known.name == vm);
        self.groups.iter().find(has).expect("a VM of the scenario")
    }

    /// Returns the scenario as the line that `otp.erl` reads.
    pub(crate) fn term(&self) -> String {
        let flags = if self.stopped_stay_down { "stopped_stay_down" } else { "" };
        let groups: Vec<String> = self.groups.iter().map(Group::term).collect();
        let steps: Vec<String> = self.steps.iter().map(Step::term).collect();
        let (restarts, period) = (self.intensity.restarts, self.intensity.period_s);
        let (groups, steps) = (groups.join(","), steps.join(","));
        format!("{{{},[{flags}],{{{restarts},{period}}},[{groups}],[{steps}]}}.", self.seed)
    }
}

impl Group {
    fn term(&self) -> String {
        let Self { name, strategy, intensity, auto_shutdown, .. } = self;
        let restart = if self.escalates { "permanent" } else { "transient" };
        let vms: Vec<String> = self.vms.iter().map(Vm::term).collect();
        let (restarts, period, vms) = (intensity.restarts, intensity.period_s, vms.join(","));
        format!("{{{name},{strategy},{restarts},{period},{auto_shutdown},{restart},[{vms}]}}")
    }
}

impl Vm {
    fn term(&self) -> String {
        let restart = match self.restart {
            Restart::Always | Restart::UnlessStopped => "permanent",
            Restart::OnFailure => "transient",
            Restart::Never => "temporary",
        };
        let stop = match self.stop {
            Stop::Graceful => "graceful",
            Stop::Deaf => "deaf",
            Stop::Brutal => "brutal",
        };
        let mut plans = String::new();
        for (number, start) in &self.starts {
            let separator = if plans.is_empty() { "" } else { "," };
            let _ = match start {
                Start::Fails => write!(plans, "{separator}{{{number},fails}}"),
                Start::EndOf { other, exit } => {
                    write!(plans, "{separator}{{{number},{{exits,{other},{}}}}}", exit.term())
                }
            };
        }
        format!("{{{},{restart},{},{stop},[{plans}]}}", self.name, self.significant)
    }
}

impl Exit {
    fn term(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Shutdown => "{shutdown,done}",
            Self::Failed => "failed",
            Self::Killed => "killed",
        }
    }
}

impl Step {
    fn term(&self) -> String {
        match self {
            Self::Exits(ends) => {
                let ends: Vec<String> =
                    ends.iter().map(|(vm, exit)| format!("{{{vm},{}}}", exit.term())).collect();
                format!("{{exits,[{}]}}", ends.join(","))
            }
            Self::Stop(vm) => format!("{{stop,{vm}}}"),
            Self::Start(vm) => format!("{{start,{vm}}}"),
            Self::Pass { ms } => format!("{{pass,{ms}}}"),
            Self::NextSecond => "next_second".to_owned(),
            Self::Finish => "finish".to_owned(),
        }
    }
}
