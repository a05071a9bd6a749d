//! Who gets through: paths without tricks, no foreign web page, no call without the token. Fails closed.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use crate::api::{Admin, Refusal};
use crate::control::Code;

/// Paths that anybody who reaches the port may read: probes and scrapers have no token.
const OPEN_PATHS: &[&str] = &["/livez", "/readyz", "/metrics"];

/// Runs before every route, known or not.
pub(crate) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = match check(&admin, &request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    if !OPEN_PATHS.contains(&path.as_str()) {
        tracing::info!(%method, path, status = response.status().as_u16(), "admin call");
    }
    response
}

fn check(admin: &Admin, request: &Request) -> Result<(), Refusal> {
    let refuse = |code, text: &str| Err(Refusal::new(code, text));
    if !plain_path(request.uri()) {
        return refuse(Code::Invalid, "the path is not in its plain form");
    }
    if OPEN_PATHS.contains(&request.uri().path()) && request.method() == Method::GET {
        return Ok(());
    }
    if !own_page(request.headers()) {
        return refuse(Code::Denied, "calls from web pages of another origin are refused");
    }
    // A form of a foreign page can send other types without asking first, never this one.
    let body = request.headers().get(header::CONTENT_LENGTH).is_some_and(|l| l != "0")
        || request.headers().contains_key(header::TRANSFER_ENCODING);
    if body && request.headers().get(header::CONTENT_TYPE).is_none_or(|t| t != "application/json") {
        return refuse(Code::Denied, "a body must be application/json");
    }
    if !has_token(admin, request.headers()) {
        return refuse(Code::Unauthenticated, "the bearer token is missing or wrong; it stands in admin.token in the data folder");
    }
    Ok(())
}

/// The path has one reading only: no dot segments, no empty ones, no escapes of what could be written plainly by a
/// careless decoder, no escape of an escape (CVE-2023-32315 is what happens otherwise).
fn plain_path(uri: &Uri) -> bool {
    let path = uri.path();
    if path == "/" {
        return true;
    }
    let Some(segments) = path.strip_prefix('/') else { return false };
    segments.split('/').all(|raw| {
        let Some(segment) = decode(raw) else { return false };
        let hidden = segment.contains(['/', '\\', '\0']) || segment.chars().any(char::is_control);
        let again = decode(&segment).is_some_and(|twice| twice != segment);
        !raw.contains(['\\', ';']) && !matches!(segment.as_str(), "" | "." | "..") && !hidden && !again
    })
}

/// Undoes percent-encoding once; none if it is not valid or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (high, low) = (char::from(bytes.next()?).to_digit(16)?, char::from(bytes.next()?).to_digit(16)?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// No web page, or one that this server sent; and the name it was called by is an address or `localhost`, so that a
/// foreign name that was made to resolve to the loopback is not taken for it (DNS rebinding).
fn own_page(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let Some(host) = text(header::HOST) else { return false };
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok();
    local && text(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"))
}

fn has_token(admin: &Admin, headers: &HeaderMap) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(admin.token().expose().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_pass() {
        for good in ["/", "/livez", "/api/v1/users", "/api/v1/users/a@b.example", "/api/v1/users/a%40b", "/x/%C3%A9", "/x/50%25off"] {
            assert!(plain_path(&good.parse().unwrap()), "{good}");
        }
        // M16, M17 of the corpus of bad input.
        let bad = [
            "/setup/../api",
            "/%2e%2e/",
            "/%u002e%u002e/",
            "/%2>%2>/",
            "//",
            "/api//v1",
            "/./",
            "/api;jsessionid=1",
            "/a\\b",
            "/%c0%ae",
            "/%252e%252e",
            "/a%2fb",
            "/a%5cb",
            "/a%00b",
            "/a%",
            "/a%2",
            "/livez/",
        ];
        for bad in bad {
            assert!(bad.parse::<Uri>().map_or(true, |uri| !plain_path(&uri)), "{bad}");
        }
    }

    #[test]
    fn only_own_pages_call() {
        let check = |host: Option<&str>, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            host.map(|h| headers.insert(header::HOST, h.parse().unwrap()));
            origin.map(|o| headers.insert(header::ORIGIN, o.parse().unwrap()));
            own_page(&headers)
        };
        assert!(check(Some("127.0.0.1:5280"), None));
        assert!(check(Some("[::1]:5280"), None));
        assert!(check(Some("localhost"), Some("http://localhost")));
        assert!(!check(Some("localhost:5280"), Some("http://localhost")));
        assert!(!check(Some("localhost:5280"), Some("null")));
        assert!(!check(Some("evil.example:5280"), None));
        assert!(!check(None, None));
    }
}
