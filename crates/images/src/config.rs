//! Reads the configuration of an image: what is run, as whom, where. Pure: bytes in, values out.

use crate::digest::Digest;
use crate::error::{Result, bad, shown};
use crate::manifest::Platform;
use pepita_wire::image::{ImageConfig, ImageHealth};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    config: Option<RawConfig>,
    #[serde(default)]
    rootfs: RawRoot,
}

#[derive(Deserialize, Default)]
struct RawRoot {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<RawHealth>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealth {
    test: Option<Vec<String>>,
    // Nanoseconds.
    interval: u64,
    timeout: u64,
    start_period: u64,
    retries: u32,
}

/// Reads the configuration of an image. Returns it with the digests of the uncompressed layers.
///
/// # Errors
/// When it is of another form, or guests cannot run the image's programs.
pub fn parse(bytes: &[u8]) -> Result<(ImageConfig, Vec<Digest>)> {
    let raw: Raw = serde_json::from_slice(bytes)
        .map_err(|e| bad(format!("the image's configuration cannot be read: {}", shown(&e.to_string()))))?;
    let platform = Platform { os: raw.os, architecture: raw.architecture };
    if !platform.is_ours() {
        let (os, architecture) = (shown(&platform.os), shown(&platform.architecture));
        return Err(bad(format!("the image is for {os}/{architecture}, and guests are linux/amd64")));
    }
    let config = raw.config.unwrap_or_default();
    // A line without an equals sign is a variable that docker would take from its own environment.
    let env = config.env.unwrap_or_default();
    let env = env.iter().filter_map(|line| line.split_once('=')).filter(|(name, _)| !name.is_empty());
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let names = |map: Option<BTreeMap<String, IgnoredAny>>| map.unwrap_or_default().into_keys().collect();
    Ok((
        ImageConfig {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: text(config.user),
            working_dir: text(config.working_dir),
            stop_signal: text(config.stop_signal),
            exposed_ports: names(config.exposed_ports),
            volumes: names(config.volumes),
            labels: config.labels.unwrap_or_default(),
            health: config.healthcheck.and_then(health),
        },
        raw.rootfs.diff_ids,
    ))
}

/// Translates docker's health check. `["NONE"]` switches one off that was inherited.
fn health(raw: RawHealth) -> Option<ImageHealth> {
    let test = raw.test?;
    let command = match test.split_first() {
        Some((kind, command)) if kind == "CMD" && !command.is_empty() => command.to_vec(),
        Some((kind, [line])) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), line.clone()],
        Some(_) | None => return None,
    };
    let millis = |nanoseconds: u64| nanoseconds.div_ceil(1_000_000);
    Some(ImageHealth {
        command,
        interval_ms: millis(raw.interval),
        timeout_ms: millis(raw.timeout),
        start_period_ms: millis(raw.start_period),
        retries: raw.retries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_docker_writes_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":"redis","ExposedPorts":{"6379/tcp":{}},
            "Env":["PATH=/usr/bin:/bin","EMPTY=","NONE"],"Entrypoint":["entry.sh"],"Cmd":["redis-server"],
            "Volumes":{"/data":{}},"WorkingDir":"/data","StopSignal":"SIGINT","Labels":null,
            "Healthcheck":{"Test":["CMD-SHELL","redis-cli ping"],"Interval":5000000000,"Retries":3}},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created":"x"}]}"#;
        let (config, _) = parse(text.as_bytes()).expect("a configuration");
        let env = [("EMPTY", ""), ("PATH", "/usr/bin:/bin")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let expected = ImageConfig {
            entrypoint: vec!["entry.sh".into()],
            cmd: vec!["redis-server".into()],
            env: env.into(),
            user: Some("redis".into()),
            working_dir: Some("/data".into()),
            stop_signal: Some("SIGINT".into()),
            exposed_ports: vec!["6379/tcp".into()],
            volumes: vec!["/data".into()],
            labels: BTreeMap::new(),
            health: Some(ImageHealth {
                command: ["/bin/sh", "-c", "redis-cli ping"].map(str::to_owned).to_vec(),
                interval_ms: 5000,
                retries: 3,
                ..ImageHealth::default()
            }),
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn an_image_that_guests_cannot_run_says_so() {
        let e = parse(br#"{"architecture":"arm64","os":"linux"}"#).expect_err("refused");
        assert_eq!(e.message, "the image is for linux/arm64, and guests are linux/amd64");
    }

    proptest! {
        #[test]
        fn no_configuration_breaks_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = crate::manifest::parse(&bytes);
        }
    }
}
