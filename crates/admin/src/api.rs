//! The routes. Every answer of the API is JSON: what was asked for, or `{"error":{"code","message"}}`.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, RawQuery, State};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use config::{Apply, Secret};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use types::BareJid;

use crate::control::{Code, Control, ControlError, Listening, Reload};
use crate::listener::Bounded;
use crate::metric::Metrics;

/// Bytes of a request's body: a JID and a password.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// Users in one page of a list.
pub const USERS_PAGE_MAX: usize = 1_000;
/// Bytes of a password. RFC 5802 sets no bound; the work of hashing needs one.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// The interface of one node. A clone is a pointer.
#[derive(Clone)]
pub struct Admin(Arc<Parts>);

struct Parts {
    control: Arc<dyn Control>,
    reload: Arc<dyn Reload>,
    metrics: Metrics,
    token: Secret,
}

impl Admin {
    /// `token` is what callers of the API must show.
    pub fn new(control: Arc<dyn Control>, reload: Arc<dyn Reload>, metrics: Metrics, token: Secret) -> Admin {
        Admin(Arc::new(Parts { control, reload, metrics, token }))
    }

    pub(crate) fn token(&self) -> &Secret {
        &self.0.token
    }

    /// A JID that can have an account here.
    fn account(&self, text: &str) -> Result<BareJid, Refusal> {
        let jid = BareJid::parse(text).map_err(|e| Refusal::new(Code::Invalid, &format!("\"{text}\" is not a bare JID: {e}")))?;
        if jid.local().is_none() {
            return Err(Refusal::new(Code::Invalid, &format!("\"{jid}\" has no user part: write user@domain")));
        }
        self.served(jid.domain())?;
        Ok(jid)
    }

    fn served(&self, domain: &str) -> Result<(), Refusal> {
        let config = self.0.reload.config();
        if config.domains().iter().any(|d| d == domain) {
            return Ok(());
        }
        let served = config.domains().join(", ");
        Err(Refusal::new(Code::Invalid, &format!("the domain {domain} is not served here (served: {served})")))
    }
}

/// Serves until `stop` resolves; then open requests are answered and it returns.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, admin: Admin, stop: impl Future<Output = ()> + Send + 'static) -> std::io::Result<()> {
    axum::serve(Bounded::new(listener), router(admin)).with_graceful_shutdown(stop).await
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/users", get(list_users).post(create_user))
        .route("/api/v1/users/{jid}", axum::routing::delete(delete_user))
        .route("/api/v1/users/{jid}/password", put(set_password))
        .route("/api/v1/config", get(show_config))
        .route("/api/v1/listening", get(listening))
        .route("/api/v1/reload", post(reload))
        .fallback(|| async { Refusal::new(Code::NotFound, "no such path") })
        .method_not_allowed_fallback(|| async { Refusal::new(Code::MethodNotAllowed, "this path does not take that method") })
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(admin.clone(), crate::guard::guard))
        .with_state(admin)
}

/// An answer that says no.
pub(crate) struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, message: &str) -> Refusal {
        Refusal { code, message: message.to_owned() }
    }
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Refusal {
        if let ControlError::Internal(cause) = &error {
            tracing::error!(cause, "admin call failed");
        }
        Refusal { code: error.code(), message: error.to_string() }
    }
}

/// What a refusal looks like on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Code and text.
    pub error: ErrorDetail,
}

/// Code and text of a refusal.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One of a closed set.
    pub code: Code,
    /// For people.
    pub message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: self.message } };
        (status, Json(body)).into_response()
    }
}

/// Reads a body: one object, its known fields, nothing else (M21: a field that is not known is refused, not ignored).
fn body<T: for<'de> Deserialize<'de>>(bytes: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| {
        // The parser's text names fields and places, never values of ours; a password could be in a type mismatch.
        let what = if e.is_data() && !e.to_string().contains("unknown field") {
            "a field is missing or of the wrong type".into()
        } else {
            e.to_string()
        };
        Refusal::new(Code::Invalid, &format!("the body is not as expected: {what}"))
    })
}

async fn readyz(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let readiness = admin.0.control.readiness();
    let ready = readiness.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = String::new();
    if query.is_some_and(|q| q == "verbose" || q == "verbose=1") {
        let draining = readiness.draining.then(|| "draining".to_owned());
        let all = [("accepting", &draining)].into_iter().chain(readiness.checks.iter().map(|c| (c.name.as_str(), &c.problem)));
        for (name, problem) in all {
            text.push_str(&problem.as_ref().map_or_else(|| format!("[+] {name}\n"), |p| format!("[-] {name}: {p}\n")));
        }
    }
    text.push_str(if ready { "ready\n" } else { "not ready\n" });
    (status, text).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], admin.0.metrics.render()).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersQuery {
    domain: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// A page of users.
#[derive(Debug, Serialize, Deserialize)]
pub struct Users {
    /// In ascending order.
    pub users: Vec<User>,
    /// Ask for the next page with this as `after`.
    pub next: Option<String>,
}

/// One user.
#[derive(Debug, Serialize, Deserialize)]
pub struct User {
    /// The account's JID.
    pub jid: String,
}

async fn list_users(
    State(admin): State<Admin>,
    query: Result<Query<UsersQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Users>, Refusal> {
    let Ok(Query(query)) = query else {
        return Err(Refusal::new(Code::Invalid, "the query takes `domain`, `after` and `limit`"));
    };
    let config = admin.0.reload.config();
    let domain = query.domain.as_deref().or(config.domains().first().map(String::as_str)).unwrap_or_default();
    let domain = BareJid::from_domain(domain).map_err(|e| Refusal::new(Code::Invalid, &format!("`domain`: {e}")))?;
    admin.served(domain.as_str())?;
    let after = query.after.map(|a| BareJid::parse(&a)).transpose().map_err(|e| Refusal::new(Code::Invalid, &format!("`after`: {e}")))?;
    let limit = query.limit.unwrap_or(USERS_PAGE_MAX).clamp(1, USERS_PAGE_MAX);
    let users = admin.0.control.list_users(domain, after, limit).await?;
    let next = if users.len() == limit { users.last().map(ToString::to_string) } else { None };
    Ok(Json(Users { users: users.into_iter().map(|jid| User { jid: jid.to_string() }).collect(), next }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    jid: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    password: String,
}

fn password(text: String) -> Result<Secret, Refusal> {
    match text.len() {
        0 => Err(Refusal::new(Code::Invalid, "the password is empty")),
        n if n > PASSWORD_BYTES_MAX => Err(Refusal::new(Code::Invalid, "the password is longer than 1024 bytes")),
        _ => Ok(Secret::new(text)),
    }
}

async fn create_user(State(admin): State<Admin>, bytes: Bytes) -> Result<Response, Refusal> {
    let new: NewUser = body(&bytes)?;
    let (jid, password) = (admin.account(&new.jid)?, password(new.password)?);
    admin.0.control.create_user(jid.clone(), password).await?;
    Ok((StatusCode::CREATED, Json(User { jid: jid.to_string() })).into_response())
}

async fn delete_user(State(admin): State<Admin>, Path(jid): Path<String>) -> Result<StatusCode, Refusal> {
    admin.0.control.delete_user(admin.account(&jid)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn set_password(State(admin): State<Admin>, Path(jid): Path<String>, bytes: Bytes) -> Result<StatusCode, Refusal> {
    let jid = admin.account(&jid)?;
    let new: NewPassword = body(&bytes)?;
    admin.0.control.set_password(jid, password(new.password)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// One setting in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct SettingBody {
    /// Path in the file.
    pub key: String,
    /// Value as a file would write it; secrets are hidden.
    pub value: toml::Value,
    /// Where it comes from.
    pub origin: String,
    /// Whether a change needs no restart.
    pub live: bool,
}

/// The configuration in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfigBody {
    /// Every setting.
    pub settings: Vec<SettingBody>,
    /// The same as a file, with origins as comments.
    pub toml: String,
}

impl From<&config::Config> for ConfigBody {
    fn from(config: &config::Config) -> ConfigBody {
        let setting = |s: config::Shown| SettingBody { key: s.key.into(), value: s.value, origin: s.origin, live: s.apply == Apply::Live };
        ConfigBody { settings: config.shown().into_iter().map(setting).collect(), toml: config.to_toml(true) }
    }
}

async fn show_config(State(admin): State<Admin>) -> Json<ConfigBody> {
    Json(ConfigBody::from(&admin.0.reload.config()))
}

async fn listening(State(admin): State<Admin>) -> Json<Listening> {
    Json(admin.0.control.listening())
}

async fn reload(State(admin): State<Admin>) -> Result<Response, Refusal> {
    Ok(Json(admin.0.reload.reload().await?).into_response())
}

#[cfg(test)]
mod tests;
