//! Notes how each layer stands, and decides whether the program may be started without one. Touches nothing itself.

use crate::answer::{Failure, What};
use crate::layer::{Layer, Report, Standing};
use crate::plan::Level;

/// The account of the layers of one jail.
#[derive(Debug)]
pub(crate) struct Ledger {
    level: Level,
    report: Report,
}

impl Ledger {
    pub(crate) fn new(level: Level) -> Self {
        Self { level, report: Report::default() }
    }

    /// Notes whether a layer could be had. Returns whether it is in force.
    ///
    /// # Errors
    /// When it could not, and every layer has to be there.
    pub(crate) fn enter(&mut self, layer: Layer, tried: Result<(), String>) -> Result<bool, Failure> {
        self.enter_as(layer, tried.map(|()| Standing::in_force()))
    }

    /// Notes how a layer stands, when it could be had. Returns whether it is in force.
    ///
    /// # Errors
    /// As [`Ledger::enter`].
    pub(crate) fn enter_as(
        &mut self,
        layer: Layer,
        tried: Result<Standing, String>,
    ) -> Result<bool, Failure> {
        match (tried, self.level) {
            (Ok(standing), _) => {
                self.report.note(layer, standing);
                Ok(true)
            }
            (Err(why), Level::Full) => Err(Failure::new(What::Layer(layer), why)),
            (Err(why), Level::BestEffort | Level::None) => {
                self.report.note(layer, Standing::Missing { why });
                Ok(false)
            }
        }
    }

    /// Notes that a jail of this plan does without a layer.
    pub(crate) fn leave_out(&mut self, layer: Layer, why: &str) {
        self.report.note(layer, Standing::LeftOut { why: why.into() });
    }

    /// Returns what is said of all layers.
    pub(crate) fn close(self) -> Report {
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_cannot_be_had_is_an_error_that_names_it_unless_less_will_do() {
        let refuse = |level| Ledger::new(level).enter(Layer::Network, Err("no".into()));
        let failure = refuse(Level::Full).expect_err("a failure");
        assert_eq!(failure.to_string(), "jail, layer network: no");
        assert_eq!(failure.exit_code(), 71);
        assert_eq!(refuse(Level::BestEffort), Ok(false));
    }

    #[test]
    fn a_missing_layer_is_told_with_its_reason() {
        let mut ledger = Ledger::new(Level::BestEffort);
        ledger.enter(Layer::Landlock, Err("no kernel for it".into())).expect("less will do");
        ledger.enter(Layer::Ipc, Ok(())).expect("there");
        ledger.leave_out(Layer::Uid, "an ordinary user");
        let report = ledger.close();
        assert_eq!(report.missing().collect::<Vec<_>>(), [(Layer::Landlock, "no kernel for it")]);
        assert_eq!(report.in_force().collect::<Vec<_>>(), [Layer::Ipc]);
    }
}
