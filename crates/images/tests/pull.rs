//! Tests of pulls: from Debian's docker-registry, and from registries that stall, lie, refuse and break off.

mod support;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use support::registry::{Answer, Bad, Registry};
use support::{Image, Yard, layer, prepared, text};
use tar::EntryType::Regular;

fn image() -> Image {
    // Random enough that it has the size on the wire, too.
    let contents: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Image::of(&[layer(&[(Regular, "a", &contents)])])
}

#[test]
fn an_image_is_pulled_once_and_then_starts_without_its_registry() {
    let yard = Yard::new();
    let registry = Registry::start(yard.dir.path());
    registry.push(&format!("oci:{}:7", prepared(".guest/images/redis").display()), "team/redis:7");
    let name = format!("{}/team/redis:7", registry.host);
    yard.fails(&["resolve", &name, "--pull", "never"], 66);
    let record = yard.json(&["pull", &name]);
    yard.root(&record).assert_whole();
    assert_eq!(record["reference"], json!(name));
    let by_digest = format!("{}/team/redis@{}", registry.host, record["digest"].as_str().expect("a digest"));
    assert_eq!(yard.json(&["pull", &by_digest])["root"], record["root"]);
    yard.fails(&["pull", &format!("{}/team/none:7", registry.host)], 66);
    drop(registry);
    assert_eq!(yard.json(&["resolve", &name])["root"], record["root"], "it is here");
    let said = yard.fails(&["pull", &name], 75);
    assert!(said.contains("onnect"), "{said}");
    yard.root(&record).assert_whole();
}

/// A refusal as the distribution specification has it.
const CODE: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;

#[test]
fn a_registry_that_lies_refuses_or_breaks_off_is_told_apart_and_leaves_nothing() {
    let image = image();
    let layer = image.blobs[0].0.clone();
    let is_layer = move |path: &str| path.ends_with(&layer);
    let cases: [(&str, Answer, Answer, i32, &str); 16] = [
        ("a layer with other bytes", Answer::Good, Answer::Lie, 66, "digest"),
        ("a layer without end", Answer::Good, Answer::Endless(200), 66, "more than"),
        ("a layer that comes drop by drop", Answer::Good, Answer::Drip, 75, "less than 1 KiB"),
        (
            "a layer that leads in a circle",
            Answer::Good,
            Answer::Redirect("http://HOST/v2/a/blobs/there".into()),
            66,
            "redirect",
        ),
        ("a layer that stalls", Answer::Good, Answer::Stall, 75, ""),
        ("a layer that always breaks off", Answer::Good, Answer::BreakOff(0), 75, ""),
        ("a manifest of another digest", Answer::Lie, Answer::Good, 66, ""),
        ("a manifest that stalls", Answer::Stall, Answer::Good, 75, ""),
        ("a manifest without end", Answer::Endless(200), Answer::Good, 66, "more than 4194304 bytes"),
        ("a refusal without end", Answer::Endless(404), Answer::Good, 66, "no such image"),
        ("a layer that is refused without end", Answer::Good, Answer::Endless(403), 77, "docker login"),
        ("a code", Answer::Status(400, CODE), Answer::Good, 75, "no more requests"),
        ("401", Answer::Status(401, ""), Answer::Good, 77, "docker login"),
        ("403", Answer::Status(403, "{}"), Answer::Good, 77, "docker login"),
        ("429", Answer::Status(429, "slow down"), Answer::Good, 75, "429"),
        ("503", Answer::Status(503, "<html>"), Answer::Good, 75, "503"),
    ];
    std::thread::scope(|all| {
        for (name, of_manifest, of_layer, code, word) in cases {
            let (image, is_layer) = (&image, is_layer.clone());
            all.spawn(move || {
                let yard = Yard::new();
                let registry = Bad::serve(image, move |_, path, _| match path {
                    "/v2/" => Answer::Good,
                    path if is_layer(path) || path.ends_with("/there") => of_layer.clone(),
                    path if path.contains("/manifests/") => of_manifest.clone(),
                    _ => Answer::Good,
                });
                let said = yard.fails(&["pull", &format!("{}/a:1", registry.host)], code);
                assert!(said.contains(word) && said.lines().count() == 1, "{name}: {said}");
                assert_eq!(yard.stored(), Vec::<String>::new(), "{name}");
            });
        }
    });
}

#[test]
fn a_layer_that_breaks_off_is_continued_where_it_was() {
    let (yard, image) = (Yard::new(), image());
    let layer = image.blobs[0].0.clone();
    let registry = Bad::serve(&image, move |_, path, header| match path.ends_with(&layer) {
        true if header.to_ascii_lowercase().contains("range: bytes=280000-") => Answer::Good,
        // More often than a layer is asked for that does not get on.
        true => Answer::BreakOff(70_000),
        false => Answer::Good,
    });
    let record = yard.json(&["pull", &format!("{}/a:1", registry.host)]);
    yard.root(&record).assert_whole();
    // What is here is not asked for again.
    registry.requests.lock().expect("no panic").clear();
    yard.json(&["pull", &format!("{}/a:1", registry.host)]);
    let asked = registry.requests.lock().expect("no panic").clone();
    assert!(asked.iter().all(|path| !path.contains("/blobs/")), "{asked:?}");
}

#[test]
fn a_login_of_docker_is_shown_to_its_registry_only() {
    let (yard, image) = (Yard::new(), image());
    let with_login = |_, _: &str, header: &str| match header.contains("authorization: Basic dTpw") {
        true => Answer::Good,
        false => Answer::Status(401, ""),
    };
    let registry = Bad::serve(&image, move |number, path, header| match path {
        // The registry asks for a login.
        "/v2/" => Answer::Challenge(r#"Basic realm="x""#),
        path => with_login(number, path, header),
    });
    let name = format!("{}/a:1", registry.host);
    yard.fails(&["pull", &name], 77);
    std::fs::create_dir(yard.path("docker")).expect("made");
    let login = |host: &str| json!({ "auths": { host: { "auth": "dTpw" } } }).to_string();
    std::fs::write(yard.path("docker/config.json"), login("other.example")).expect("written");
    yard.fails(&["pull", &name], 77);
    std::fs::write(yard.path("docker/config.json"), login(&registry.host)).expect("written");
    yard.json(&["pull", &name]);
}

#[test]
fn a_layer_may_lie_elsewhere_and_the_login_is_not_shown_there() {
    let (yard, image) = (Yard::new(), image());
    let elsewhere =
        Bad::serve(&image, |_, _, header| match header.to_ascii_lowercase().contains("authorization") {
            true => Answer::Status(403, ""),
            false => Answer::Good,
        });
    let (layer, there) = (image.blobs[0].0.clone(), elsewhere.host.clone());
    let registry = Bad::serve(&image, move |_, path, header| match path {
        "/v2/" => Answer::Challenge(r#"Basic realm="x""#),
        _ if !header.contains("authorization: Basic dTpw") => Answer::Status(401, ""),
        path if path.ends_with(&layer) => Answer::Redirect(format!("http://{there}{path}")),
        _ => Answer::Good,
    });
    std::fs::create_dir(yard.path("docker")).expect("made");
    let login = json!({ "auths": { &registry.host: { "auth": "dTpw" } } }).to_string();
    std::fs::write(yard.path("docker/config.json"), login).expect("written");
    let record = yard.json(&["pull", &format!("{}/a:1", registry.host)]);
    yard.root(&record).assert_whole();
    assert!(!elsewhere.requests.lock().expect("no panic").is_empty());
}

#[test]
fn a_token_of_the_login_service_is_shown_and_renewed_when_it_is_no_longer_accepted() {
    let (yard, image) = (Yard::new(), image());
    let registry = Bad::serve(&image, |number, path, header| match path {
        "/v2/" => Answer::Challenge(r#"Bearer realm="http://HOST/token?a=b",service="s""#),
        // The manifest is asked for with the first token, and the blobs with the second.
        "/token?a=b&service=s&scope=repository%3Aa%3Apull" if number < 3 => {
            Answer::Status(200, r#"{"token":"one"}"#)
        }
        "/token?a=b&service=s&scope=repository%3Aa%3Apull" => {
            Answer::Status(200, r#"{"access_token":"two"}"#)
        }
        path if header.contains("authorization: Bearer one") && path.contains("/manifests/") => Answer::Good,
        _ if header.contains("authorization: Bearer two") => Answer::Good,
        _ => Answer::Status(401, ""),
    });
    let record = yard.json(&["pull", &format!("{}/a:1", registry.host)]);
    yard.root(&record).assert_whole();
    let asked = registry.requests.lock().expect("no panic").clone();
    assert_eq!(asked.iter().filter(|path| path.starts_with("/token")).count(), 2, "{asked:?}");
}

#[test]
fn a_login_service_that_sends_without_end_or_no_token_is_refused() {
    for (answer, word) in
        [(Answer::Endless(200), "more than 1048576 bytes"), (Answer::Status(200, "{}"), "no token")]
    {
        let (yard, image) = (Yard::new(), image());
        let registry = Bad::serve(&image, move |_, path, _| match path {
            "/v2/" => Answer::Challenge(r#"Bearer realm="http://HOST/token""#),
            path if path.starts_with("/token") => answer.clone(),
            _ => Answer::Good,
        });
        let said = yard.fails(&["pull", &format!("{}/a:1", registry.host)], 66);
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_disk_that_fills_up_while_an_image_is_pulled_is_told_and_holds_nothing_of_it() {
    let (small, image) = (tempfile::tempdir().expect("a directory"), image());
    let registry = Bad::serve(&image, |_, _, _| Answer::Good);
    let name = format!("{}/a:1", registry.host);
    for size in [c"size=128k", c"size=700k"] {
        mount("small", small.path(), "tmpfs", MountFlags::empty(), Some(size)).expect("tests run as root");
        let yard = Yard::with_data(small.path());
        let output = yard.call(&["pull", &name]);
        let left = yard.stored();
        unmount(small.path(), UnmountFlags::DETACH).expect("unmounted");
        assert_eq!(output.status.code(), Some(74), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("make room"), "{}", text(&output.stderr));
        assert!(left.iter().all(|file| file.contains("blobs")), "verified blobs only: {left:?}");
    }
}
