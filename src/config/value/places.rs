//! Reads the places of a network: published ports, what a daemon may dial, what a probe asks.

use super::Reading;
use crate::spec::{Publish, Reached};
use pepita_wire::port::PORTS_CAP;
use pepita_wire::probe::HttpPlace;
use pepita_wire::reach::REACH_CAP;
use serde_json::{Value, json};

impl Reading<'_> {
    /// Reads the place of an HTTP probe; an empty text takes an inherited one away.
    pub(super) fn http_place(&self) -> Option<Value> {
        let text = self.text()?;
        match text.as_str().unwrap_or_default() {
            "" => Some(text),
            written => match written.parse::<HttpPlace>() {
                Ok(place) => Some(json!(place)),
                Err(e) => self.wrong(
                    format!("{:?}: {}", e.text, e.problem),
                    "write ADDRESS:PORT/PATH, such as \"127.0.0.1:80/healthz\"",
                ),
            },
        }
    }

    /// Reads published ports; each place of the host stands there once.
    pub(super) fn ports(&self) -> Option<Value> {
        let example = "such as [\"127.0.0.1:6379:6379\", \"8080:80\", \"unix:/run/cache.sock:6379\"]";
        let ports = self.list("a list of ports", example, |item| {
            let text = item.text()?;
            match text.as_str().unwrap_or_default().parse::<Publish>() {
                Ok(publish) => Some(json!(publish)),
                Err(e) => item.wrong(format!("{:?}: {}", e.text, e.problem), example),
            }
        })?;
        let read: Vec<Publish> = serde_json::from_value(ports.clone()).unwrap_or_default();
        if read.len() > PORTS_CAP {
            return self.wrong(format!("{} ports", read.len()), format!("at most {PORTS_CAP}"));
        }
        let twice =
            read.iter().enumerate().find(|(at, port)| read[..*at].iter().any(|one| one.host == port.host));
        match twice {
            Some((_, port)) => {
                self.wrong(format!("{} stands there twice", port.host), "take one of them out")
            }
            None => Some(ports),
        }
    }

    /// Reads places that a daemon may dial; each stands there once.
    pub(super) fn reach(&self) -> Option<Value> {
        let example = "such as [\"db:5432\", \"10.0.0.7:443\", \"api.example.com:443=10.0.0.8:443\"]";
        let places = self.list("a list of places", example, |item| {
            let text = item.text()?;
            match text.as_str().unwrap_or_default().parse::<Reached>() {
                Ok(reached) => Some(json!(reached)),
                Err(e) => item.wrong(format!("{:?}: {}", e.text, e.problem), example),
            }
        })?;
        let read: Vec<Reached> = serde_json::from_value(places.clone()).unwrap_or_default();
        if read.len() > REACH_CAP {
            return self.wrong(format!("{} places", read.len()), format!("at most {REACH_CAP}"));
        }
        let twice = read.iter().enumerate().find(|(at, it)| read[..*at].iter().any(|one| one.at == it.at));
        match twice {
            Some((_, reached)) => {
                self.wrong(format!("{} stands there twice", reached.at), "take one of them out")
            }
            None => Some(places),
        }
    }
}
