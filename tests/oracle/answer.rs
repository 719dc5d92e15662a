//! What a supervisor did in a scenario, in the marks of `otp.erl`.

use std::fmt;

/// What happened in each step, the first being the start of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer(pub(crate) Vec<Report>);

/// What happened in a step, and what is left after it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    /// What was done to VMs, in order.
    pub(crate) deeds: Vec<Deed>,
    /// The starts that were broken off, in order. OTP, which waits for each start, has none.
    pub(crate) broken_off: Vec<BrokenOff>,
    /// The supervisors that have reached their intensity, in order of their names: groups, or `tree`.
    pub(crate) exceeded: Vec<String>,
    /// The VMs that were to exit and did not run.
    pub(crate) absent: Vec<String>,
    /// What runs: the VMs of each group, or `down`.
    pub(crate) left: Vec<String>,
}

/// A start that was broken off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BrokenOff {
    pub(crate) vm: String,
    /// The place among the starts of this VM in this step, from 0.
    pub(crate) place: usize,
    /// Whether the launcher had been called; otherwise there is no deed of it.
    pub(crate) launched: bool,
}

/// Something that was done to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deed {
    pub(crate) mark: Mark,
    pub(crate) vm: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Started,
    StartFailed,
    /// It was asked to stop.
    Stopped,
    /// It was killed without being asked.
    Killed,
    /// It has ended by itself while another VM, that of the next deed, is being started. Only OTP's side marks that.
    EndedMeanwhile,
}

impl Mark {
    const ALL: [Self; 5] =
        [Self::Started, Self::StartFailed, Self::Stopped, Self::Killed, Self::EndedMeanwhile];

    fn char(self) -> char {
        match self {
            Self::Started => '+',
            Self::StartFailed => '!',
            Self::Stopped => '-',
            Self::Killed => 'x',
            Self::EndedMeanwhile => '*',
        }
    }

    /// Returns whether the VM was to be started.
    pub(crate) fn is_start(self) -> bool {
        match self {
            Self::Started | Self::StartFailed => true,
            Self::Stopped | Self::Killed | Self::EndedMeanwhile => false,
        }
    }

    /// Returns whether the VM was taken down.
    pub(crate) fn is_down(self) -> bool {
        match self {
            Self::Stopped | Self::Killed => true,
            Self::Started | Self::StartFailed | Self::EndedMeanwhile => false,
        }
    }
}

impl Answer {
    /// Reads an answer of `otp.erl`.
    pub(crate) fn parse(text: &str) -> Self {
        Self(text.split(" | ").map(Report::parse).collect())
    }
}

impl Report {
    fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for word in text.split_whitespace() {
            let (mark, name) = word.split_at(1);
            let name = name.to_owned();
            match mark {
                "^" => report.exceeded.push(name),
                "?" => report.absent.push(name),
                "=" => report.left.push(name),
                // OTP has not started the tree at all, and says why.
                "r" => {
                    report.left = vec![text[text.find(word).unwrap_or_default()..].to_owned()];
                    break;
                }
                _ => match Mark::ALL.into_iter().find(|known| mark == known.char().to_string()) {
                    Some(mark) => report.deeds.push(Deed { mark, vm: name }),
                    None => panic!("OTP says: {text}"),
                },
            }
        }
        report.exceeded.sort_unstable();
        report
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, report) in self.0.iter().enumerate() {
            writeln!(f, "  {step}: {report}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deeds = self.deeds.iter().map(|deed| format!("{}{}", deed.mark.char(), deed.vm));
        let broken_off = self.broken_off.iter().map(|start| format!("~{}({})", start.vm, start.place));
        let exceeded = self.exceeded.iter().map(|name| format!("^{name}"));
        let absent = self.absent.iter().map(|vm| format!("?{vm}"));
        let left = self.left.iter().map(|left| format!("={left}"));
        let words: Vec<String> = deeds.chain(broken_off).chain(exceeded).chain(absent).chain(left).collect();
        write!(f, "{}", words.join(" "))
    }
}
