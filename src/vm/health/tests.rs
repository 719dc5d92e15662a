use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn spec() -> HealthSpec {
    HealthSpec { watchdog: Duration::ZERO, ..HealthSpec::default() }
}

#[test]
fn an_image_completes_what_the_specification_leaves_at_its_default() {
    let seconds = Duration::from_secs;
    let image = ImageHealth {
        command: vec!["check".into()],
        interval_ms: 5000,
        start_period_ms: u64::MAX,
        retries: 7,
        ..ImageHealth::default()
    };
    let completed = HealthSpec {
        command: Some(vec!["check".into()]),
        interval: seconds(5),
        // Docker's, because the image names none.
        timeout: seconds(30),
        start_period: IMAGE_TIME_MAX,
        retries: 7,
        ..spec()
    };
    assert_eq!(in_force(&spec(), Some(&image)), completed);
    let own = HealthSpec { interval: Duration::ZERO, retries: 1, ..spec() };
    let expected = HealthSpec { interval: Duration::ZERO, retries: 1, ..completed };
    assert_eq!(in_force(&own, Some(&image)), expected);
    for command in [Vec::new(), vec!["own".to_owned()]] {
        let own = HealthSpec { command: Some(command), ..spec() };
        assert_eq!(in_force(&own, Some(&image)), own);
    }
    assert_eq!(in_force(&spec(), None), spec());
}

/// Lets probes time out one after the other; returns the findings of each deadline.
fn time_out(health: &mut Health, spec: &HealthSpec, from: Instant, rounds: u32) -> Vec<Finding> {
    let mut found = Vec::new();
    for round in 1..=rounds {
        let due = from + spec.interval * round;
        assert!(matches!(health.tick(spec, due)[..], [Finding::Probe(_)]));
        found.extend(health.tick(spec, due + spec.timeout));
    }
    found
}

#[test]
fn three_failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
    let (spec, now) = (spec(), Instant::now());
    let mut health = Health::new(&spec, now, true);
    assert_eq!(time_out(&mut health, &spec, now, 2), []);
    assert_eq!(time_out(&mut health, &spec, now + spec.interval * 2, 1), [Finding::Unhealthy]);
    let due = now + spec.interval * 4;
    let [Finding::Probe(id)] = health.tick(&spec, due)[..] else { panic!("a probe") };
    assert_eq!(
        health.last().map(ToString::to_string).as_deref(),
        Some("failed, 3 in a row: no answer within 2s")
    );
    assert_eq!(health.probed(&spec, due, id, Answer::Good("fine".into())), Some(Finding::Healthy));
    assert_eq!(health.last().map(ToString::to_string).as_deref(), Some("good: fine"));
}

#[test]
fn the_first_probes_have_pauses_that_grow_and_a_good_one_is_enough() {
    let (spec, start) = (spec(), Instant::now());
    let mut first = FirstProbes::new(start);
    let (mut now, mut pauses) = (start, Vec::new());
    for id in 1..=8 {
        assert_eq!((first.wake_at(), first.tick(&spec, now)), (now, Some(id)));
        assert_eq!(first.tick(&spec, now), None, "one at a time");
        assert!(!first.probed(&spec, now, id, Answer::Bad("refused".into())));
        pauses.push((first.wake_at() - now).as_millis());
        now = first.wake_at();
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000, 2000]);
    assert_eq!(first.last().map(ToString::to_string).as_deref(), Some("failed, 8 in a row: refused"));
    // A probe without an answer is given up, and its late answer dropped.
    assert_eq!(first.tick(&spec, now), Some(9));
    now += spec.timeout;
    assert_eq!((first.wake_at(), first.tick(&spec, now)), (now, None));
    assert!(!first.probed(&spec, now, 9, Answer::Good(String::new())));
    now = first.wake_at();
    assert_eq!(first.tick(&spec, now), Some(10));
    assert!(first.probed(&spec, now, 10, Answer::Good("fine".into())));
    let mut health = Health::after(first, &spec, now);
    assert_eq!(health.tick(&spec, now + spec.interval), [Finding::Probe(11)]);
    // Pauses are no longer than the interval.
    let often = HealthSpec { interval: Duration::from_millis(150), ..spec };
    let mut first = FirstProbes::new(now);
    for (id, pause) in [(1, 100), (2, 150), (3, 150)] {
        assert_eq!(first.tick(&often, now), Some(id));
        first.probed(&often, now, id, Answer::Bad(String::new()));
        assert_eq!(first.wake_at() - now, Duration::from_millis(pause));
        now = first.wake_at();
    }
}

#[test]
fn a_starved_host_is_not_a_dead_guest() {
    let (spec, now) = (spec(), Instant::now());
    let mut health = Health::new(&spec, now, true);
    let mut at = now + spec.interval;
    for _ in 0..20 {
        assert!(matches!(health.tick(&spec, at)[..], [Finding::Probe(_)]));
        at += spec.timeout * 2;
    }
}

#[test]
fn failures_in_the_start_period_do_not_count() {
    let spec = HealthSpec { start_period: Duration::from_secs(100), ..spec() };
    let now = Instant::now();
    let mut health = Health::new(&spec, now, true);
    assert_eq!(time_out(&mut health, &spec, now, 8), []);
    assert_eq!(time_out(&mut health, &spec, now + spec.interval * 9, 3), [Finding::Unhealthy]);
}

#[test]
fn failures_before_the_first_link_do_not_count_for_a_while() {
    let spec = HealthSpec { interval: SECOND, timeout: SECOND / 2, ..spec() };
    let now = Instant::now();
    let mut health = Health::new(&spec, now, false);
    assert_eq!(time_out(&mut health, &spec, now, 9), []);
    let mut linked = health.clone();
    linked.linked();
    assert_eq!(time_out(&mut linked, &spec, now + SECOND * 9, 3), [Finding::Unhealthy]);
    // An agent that never takes a link is not waited for without end.
    let mut waited = health.clone();
    assert_eq!(time_out(&mut waited, &spec, now + SECOND * 9, 4), [Finding::Unhealthy]);
    // What was adopted while it was paused is dialled at the resume, which may be much later.
    let resumed_at = now + SECOND * 3600;
    let mut resumed = health.restarted(&spec, resumed_at);
    assert_eq!(time_out(&mut resumed, &spec, resumed_at, 9), []);
}

#[test]
fn a_silent_daemon_is_noticed_and_a_fed_watchdog_is_not() {
    let spec = HealthSpec { interval: Duration::ZERO, watchdog: Duration::from_secs(3), ..spec() };
    let now = Instant::now();
    let mut health = Health::new(&spec, now, true);
    health.watchdog_fed(now + Duration::from_secs(2));
    assert_eq!(health.tick(&spec, now + Duration::from_secs(4)), []);
    assert_eq!(health.wake_at(&spec), Some(now + Duration::from_secs(5)));
    assert_eq!(health.tick(&spec, now + Duration::from_secs(5)), [Finding::WatchdogExpired]);
}

#[test]
fn a_daemon_that_ends_by_itself_is_left_alone_for_a_time_and_then_watched_again() {
    let spec = HealthSpec { watchdog: Duration::from_secs(3), ..spec() };
    let now = Instant::now();
    let mut health = Health::new(&spec, now, true);
    let until = now + spec.interval * 100;
    health.suspend(now + spec.interval);
    health.extend(until);
    health.extend(now);
    assert_eq!(health.wake_at(&spec), Some(until));
    assert_eq!(health.tick(&spec, until - Duration::from_nanos(1)), []);
    assert_eq!(health.tick(&spec, until), []);
    assert_eq!(health.wake_at(&spec), Some(until + spec.watchdog));
    assert_eq!(health.tick(&spec, until + spec.watchdog), [Finding::WatchdogExpired]);
}

#[test]
fn after_a_pause_nothing_of_before_counts() {
    let (spec, now) = (spec(), Instant::now());
    let mut health = Health::new(&spec, now, true);
    assert_eq!(time_out(&mut health, &spec, now, 2), []);
    let later = now + spec.interval * 100;
    health = health.restarted(&spec, later);
    assert_eq!(time_out(&mut health, &spec, later, 2), []);
}

#[test]
fn vms_that_are_adopted_at_once_are_probed_over_the_whole_interval() {
    let (spec, now) = (spec(), Instant::now());
    let mut tenths = [0; 10];
    for number in 0..1000 {
        let health = Health::new(&spec, now, true).spread(&spec, now, &format!("vm-{number}"));
        let at = health.wake_at(&spec).expect("a probe") - now;
        assert!(at <= spec.interval, "{at:?}");
        let tenth = (at.as_secs_f64() / spec.interval.as_secs_f64() * 10.0) as usize;
        tenths[tenth.min(9)] += 1;
    }
    assert!(tenths.iter().all(|count| (50..=150).contains(count)), "{tenths:?}");
}
