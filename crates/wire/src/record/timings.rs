//! The parts of a start: what a VM has gone through from the order to launch it until its daemon was ready, with the time
//! that each part took.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A part of a start. The parts are in the order in which a start goes through them; none has all of them.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::EnumIter,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Part {
    /// The request is completed: images and kernel are found, and all that it names is looked at.
    Request,
    /// The monitor is started as a program of its own.
    Monitor,
    /// The name, the CID and the user ids are claimed, and what a former VM of the name has left is cleaned up.
    Claims,
    /// The run directory is written, disks are checked and locked, sockets and limits are made.
    Configuration,
    /// The processes of the VM are started, in their jails.
    Spawn,
    /// The VMM sets the machine up, until it answers or the guest writes its first byte.
    Vmm,
    /// The guest boots, until its agent listens; without a sign of that, until the agent has said hello.
    Kernel,
    /// The agent is dialled and says hello.
    Hello,
    /// Disks and shares are mounted.
    Mounts,
    /// The daemon is held back, until a client has started it.
    Held,
    /// The VM, a warm spare before, takes the place of its VM.
    Promotion,
    /// The daemon is started: it is executed.
    Daemon,
    /// The daemon starts up, until it has said `READY=1`.
    Ready,
    /// A part of a newer launcher, which this program does not know.
    #[serde(other)]
    Unknown,
}

impl Part {
    /// Returns the words that explain the part to people.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Request => "images and kernel found, the request completed",
            Self::Monitor => "monitor started",
            Self::Claims => "name, CID and user ids claimed",
            Self::Configuration => "run directory written, disks checked, sockets and limits made",
            Self::Spawn => "processes of the VM started",
            Self::Vmm => "machine set up by the VMM",
            Self::Kernel => "guest booted, until its agent listens",
            Self::Hello => "agent dialled, hellos exchanged",
            Self::Mounts => "disks and shares mounted",
            Self::Held => "daemon held back",
            Self::Promotion => "made the VM whose spare it was",
            Self::Daemon => "daemon executed",
            Self::Ready => "daemon has said READY=1",
            Self::Unknown => "not known to this program",
        }
    }
}

/// A part of a start with the time that it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedPart {
    /// The part.
    pub part: Part,
    /// The time that the part took, in microseconds.
    pub us: u64,
}

/// The time that a start took, as a whole and in parts, by the monotonic clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timings {
    /// The time of the whole, in microseconds. The parts add up to it, except for less than a microsecond each.
    pub total_us: u64,
    /// The parts that are over, in their order. A part that is not known, or that this start did not have, is absent.
    pub parts: Vec<TimedPart>,
}

impl Timings {
    /// Returns the time of a part, in microseconds.
    pub fn us(&self, part: Part) -> Option<u64> {
        self.parts.iter().find(|timed| timed.part == part).map(|timed| timed.us)
    }

    /// Returns a table for people: a line for each part with its time and its meaning, and a line with the whole.
    pub fn table(&self) -> String {
        let lines = self.parts.iter().map(|TimedPart { part, us }| {
            format!("{:>10} ms  {:<13}  {}\n", ms(*us), part.to_string(), part.meaning())
        });
        format!("{}{:>10} ms  in all", lines.collect::<String>(), ms(self.total_us))
    }
}

impl fmt::Display for Timings {
    /// Writes `0.4 ms (claims) + 1380.2 ms (kernel) = 1380.6 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, TimedPart { part, us }) in self.parts.iter().enumerate() {
            let plus = if index == 0 { "" } else { " + " };
            write!(f, "{plus}{} ms ({part})", ms(*us))?;
        }
        write!(f, " = {} ms", ms(self.total_us))
    }
}

/// Returns a number of microseconds in milliseconds, with one digit behind the point.
fn ms(us: u64) -> String {
    let tenths = us.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strum::IntoEnumIterator;

    fn example() -> Timings {
        let parts =
            vec![TimedPart { part: Part::Claims, us: 449 }, TimedPart { part: Part::Kernel, us: 1_380_151 }];
        Timings { total_us: 1_380_601, parts }
    }

    #[test]
    fn parts_are_told_to_people_with_their_sum() {
        assert_eq!(example().to_string(), "0.4 ms (claims) + 1380.2 ms (kernel) = 1380.6 ms");
        let table = example().table();
        let expected = "       0.4 ms  claims         name, CID and user ids claimed
    1380.2 ms  kernel         guest booted, until its agent listens
    1380.6 ms  in all";
        assert_eq!(table, expected);
    }

    #[test]
    fn every_part_reads_as_it_is_written_and_a_newer_one_is_unknown() {
        for part in Part::iter().filter(|part| *part != Part::Unknown) {
            let json = serde_json::to_string(&part).expect("a part becomes JSON");
            assert_eq!(json, format!("\"{part}\""));
            assert_eq!(serde_json::from_str::<Part>(&json).expect("a part"), part);
        }
        let newer: Timings =
            serde_json::from_str(r#"{"parts":[{"part":"thaw","us":7,"cpu":1}],"total_us":7}"#)
                .expect("a newer record still reads");
        assert_eq!((newer.us(Part::Unknown), newer.us(Part::Claims)), (Some(7), None));
    }
}
