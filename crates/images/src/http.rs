//! Speaks HTTP with a registry: the login, and bodies that are read only up to a limit, because whoever answers may send
//! more than there is memory.

use crate::challenge::{Challenge, read};
use crate::credentials::{self, Credentials};
use crate::error::{CallError, Result, bad, error, shown};
use crate::reference::is_loopback;
use oci_spec::distribution::Reference;
use pepita_wire::record::CallErrorKind;
use reqwest::header::{ACCEPT, RANGE, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::cell::RefCell;
use std::time::Duration;

/// The largest answer of a login service, in bytes.
const TOKEN_CAP: usize = 1 << 20;

/// The bytes that are read of the body of a refusal.
const REFUSAL_CAP: usize = 1 << 16;

/// The most answers that lead on to another place.
const REDIRECTS_CAP: usize = 5;

/// How long a registry is waited for.
#[derive(Debug, Clone)]
pub struct Patience {
    /// The time limit for a connection.
    pub connect: Duration,
    /// The time in which something has to arrive.
    pub silence: Duration,
    /// The time limit for a login, and for a manifest.
    pub document: Duration,
    /// The pauses before further attempts, when a registry is busy or a connection breaks off.
    pub pauses: [Duration; 2],
}

/// Returns the usual patience. `$PEPITA_REGISTRY_PATIENCE`, in seconds, is another limit of silence.
pub fn patience() -> Patience {
    let named = std::env::var("PEPITA_REGISTRY_PATIENCE").ok().and_then(|text| text.parse().ok());
    let silence = Duration::from_secs(named.unwrap_or(30).clamp(1, 3600));
    Patience {
        connect: silence.min(Duration::from_secs(15)),
        silence,
        document: silence * 2,
        pauses: [Duration::from_millis(500), Duration::from_secs(2)],
    }
}

/// The reason why an attempt has failed.
#[derive(Debug)]
pub enum Failed {
    /// Another attempt may succeed.
    Passing(CallError),
    /// No other attempt would succeed.
    Lasting(CallError),
}

impl Failed {
    /// Returns the error.
    pub fn error(self) -> CallError {
        match self {
            Self::Passing(e) | Self::Lasting(e) => e,
        }
    }
}

/// What is shown with each request.
#[derive(Clone)]
enum Login {
    Nobody,
    Password(Credentials),
    Token(String),
}

impl Login {
    fn sign(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Nobody => request,
            Self::Password(known) => request.basic_auth(&known.user, Some(&known.secret)),
            Self::Token(token) => request.bearer_auth(token),
        }
    }
}

/// A registry that is asked about one image.
pub struct Http {
    client: Client,
    reference: Reference,
    base: String,
    known: Option<Credentials>,
    login: RefCell<Option<Login>>,
    patience: Patience,
}

impl Http {
    /// Prepares to ask about an image.
    ///
    /// # Errors
    /// When docker's configuration cannot be read.
    pub fn new(reference: &Reference, plain_http: bool, patience: &Patience) -> Result<Self> {
        // An installed provider is no error: it is the same one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let host = reference.resolve_registry();
        let is_plain = plain_http || is_loopback(host);
        // The proxies of the environment are used.
        let mut client = Client::builder()
            .connect_timeout(patience.connect)
            .read_timeout(patience.silence)
            // A login is shown to its registry only, not to the place that an answer leads to.
            .redirect(Policy::limited(REDIRECTS_CAP))
            .user_agent(concat!("pepita-image/", env!("CARGO_PKG_VERSION")))
            // Also for a login service and for what an answer leads to.
            .https_only(!is_plain);
        if is_loopback(host) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|e| error(CallErrorKind::Internal, chain(&e)))?;
        let scheme = if is_plain { "http" } else { "https" };
        Ok(Self {
            client,
            reference: reference.clone(),
            base: format!("{scheme}://{host}/v2/"),
            known: credentials::of(host)?,
            login: RefCell::new(None),
            patience: patience.clone(),
        })
    }

    /// Returns a document of at most so many bytes.
    ///
    /// # Errors
    /// When the registry does not give it, or it is larger.
    pub async fn document(&self, path: &str, accept: &str, cap: usize) -> Result<Vec<u8>, Failed> {
        let asked = async {
            let request = |url| self.client.get(url).header(ACCEPT, accept);
            let response = self.get(path, request).await?;
            self.body(response, cap).await
        };
        self.in_time(asked).await
    }

    /// Asks for a blob, from this byte on. What is returned begins there if its status is 206, else at the first byte.
    ///
    /// # Errors
    /// When the registry does not give it.
    pub async fn blob(&self, path: &str, from: u64) -> Result<Response, Failed> {
        let request = |url| match from {
            0 => self.client.get(url),
            from => self.client.get(url).header(RANGE, format!("bytes={from}-")),
        };
        self.in_time(self.get(path, request)).await
    }

    /// Makes a request with the login. One that the registry no longer accepts is renewed: tokens expire.
    async fn get(&self, path: &str, request: impl Fn(Url) -> RequestBuilder) -> Result<Response, Failed> {
        let url = self.address(&format!("{}{}/{path}", self.base, self.reference.repository()))?;
        let kept = self.login.borrow().clone();
        if let Some(login) = kept {
            let response = self.send(login.sign(request(url.clone()))).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !matches!(login, Login::Token(_)) {
                return self.accepted(response).await;
            }
        }
        let login = self.log_in().await?;
        self.login.replace(Some(login.clone()));
        let response = self.send(login.sign(request(url))).await?;
        self.accepted(response).await
    }

    /// Finds out what the registry wants to be shown, as the distribution specification has it.
    async fn log_in(&self) -> Result<Login, Failed> {
        let response = self.send(self.client.get(self.address(&self.base)?)).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(response).await.map(|_| Login::Nobody);
        }
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let headers: Vec<&str> = headers.filter_map(|header| header.to_str().ok()).collect();
        match (read(&headers.join(", ")), &self.known) {
            (Some(Challenge::Bearer { realm, service }), _) => self.token(&realm, service.as_deref()).await,
            (Some(Challenge::Basic), Some(known)) => Ok(Login::Password(known.clone())),
            (Some(Challenge::Basic) | None, _) => Ok(Login::Nobody),
        }
    }

    /// Asks a login service for a token.
    async fn token(&self, realm: &str, service: Option<&str>) -> Result<Login, Failed> {
        let mut url = self.address(realm)?;
        url.query_pairs_mut()
            .extend_pairs(service.map(|service| ("service", service)))
            .append_pair("scope", &format!("repository:{}:pull", self.reference.repository()));
        let request = self.client.get(url);
        let request = match &self.known {
            Some(known) => Login::Password(known.clone()).sign(request),
            None => request,
        };
        let response = self.accepted(self.send(request).await?).await?;
        let body = self.body(response, TOKEN_CAP).await?;
        token_in(&body).map(Login::Token).ok_or_else(|| {
            Failed::Lasting(bad(format!("{}: the registry's login service gives no token", self.reference)))
        })
    }

    fn address(&self, text: &str) -> Result<Url, Failed> {
        Url::parse(text).map_err(|e| {
            Failed::Lasting(bad(format!("{}: {:?} is no address: {e}", self.reference, shown(text))))
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Failed> {
        request.send().await.map_err(|e| self.broken(e))
    }

    /// Reads a body, which may be hostile.
    async fn body(&self, mut response: Response, cap: usize) -> Result<Vec<u8>, Failed> {
        let mut bytes = Vec::new();
        while let Some(more) = response.chunk().await.map_err(|e| self.broken(e))? {
            if bytes.len() + more.len() > cap {
                let why =
                    format!("{}: the registry sends a document of more than {cap} bytes", self.reference);
                return Err(Failed::Lasting(bad(why)));
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytes)
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        match tokio::time::timeout(self.patience.document, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(self.unreachable("it does not answer")),
        }
    }

    /// Says that the registry cannot be reached for now.
    pub fn unreachable(&self, why: &str) -> Failed {
        let registry = self.reference.resolve_registry();
        let why = format!("{}: {registry}: {}", self.reference, shown(why));
        Failed::Passing(error(CallErrorKind::TryAgain, why))
    }

    /// Says what it means that a request or an answer broke off.
    pub fn broken(&self, e: reqwest::Error) -> Failed {
        // An address may hold a signature.
        let e = e.without_url();
        match e.is_builder() || e.is_redirect() {
            true => Failed::Lasting(bad(format!("{}: {}", self.reference, shown(&chain(&e))))),
            false => {
                let why = chain(&e);
                let is_distrusted = why.contains("invalid peer certificate");
                let advice =
                    if is_distrusted { "; $SSL_CERT_FILE names a file of authorities to trust" } else { "" };
                self.unreachable(&format!("{why}{advice}"))
            }
        }
    }

    /// Returns an answer that is no refusal.
    async fn accepted(&self, mut response: Response) -> Result<Response, Failed> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let mut body = Vec::new();
        while let Ok(Some(more)) = response.chunk().await {
            body.extend_from_slice(&more[..more.len().min(REFUSAL_CAP - body.len())]);
            if body.len() == REFUSAL_CAP {
                break;
            }
        }
        Err(self.refused(status.as_u16(), &body))
    }

    /// Says what a refusal means: its status, and the codes of the distribution specification.
    pub(crate) fn refused(&self, status: u16, body: &[u8]) -> Failed {
        #[derive(Default, Deserialize)]
        struct Body {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            code: String,
            message: Option<String>,
        }
        let errors = serde_json::from_slice::<Body>(body).unwrap_or_default().errors;
        let has = |code: &str| errors.iter().any(|e| e.code == code);
        let lasting = |kind, why: &str| Failed::Lasting(error(kind, format!("{}: {why}", self.reference)));
        match status {
            408 | 429 | 500.. => self.unreachable(&format!("it cannot answer for now ({status})")),
            _ if has("TOOMANYREQUESTS") => self.unreachable("it takes no more requests for now"),
            401 | 403 => lasting(CallErrorKind::Permission, REFUSED),
            _ if has("UNAUTHORIZED") || has("DENIED") => lasting(CallErrorKind::Permission, REFUSED),
            404 => lasting(CallErrorKind::BadImage, "the registry has no such image"),
            _ => {
                let said = errors.iter().find_map(|e| e.message.clone()).unwrap_or_default();
                let why = format!("the registry refuses it ({status}): {}", shown(&said));
                lasting(CallErrorKind::BadImage, &why)
            }
        }
    }
}

/// Returns the token in the answer of a login service.
pub(crate) fn token_in(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
    }
    let answer = serde_json::from_slice::<Answer>(body).ok()?;
    answer.token.or(answer.access_token)
}

/// What a user can do about a registry that refuses access.
const REFUSED: &str = "the registry refuses access; does the image exist, and has `docker login` been done?";

/// Joins an error with its causes, which say what has really happened.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}
