//! What happens when something fails: the clauses of the supervision's semantics, by name, under a clock that the test
//! holds. Everything is real except the host: the launcher, the monitors and the guests are played in memory.

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod basics;
mod changing;
mod cids;
mod edge_budgets;
mod edge_cases;
mod edge_races;
mod escalating;
mod failing;
mod health;
mod order;
mod scale;
mod simulation;
mod stopping;
