//! Listening sockets: one per plane and address, spread by the kernel (SO_REUSEPORT).

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG: i32 = 1_024;
/// A peer that says nothing is probed after this, and given up after three probes in [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Why an address cannot be listened on, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", advice(.source, .address))]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

fn advice(error: &io::Error, address: &SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "; another program listens on port {port}: `ss -ltnp 'sport = :{port}'` shows which one. Stop it, or choose another port in the configuration"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "; port {port} needs a privilege: choose one above 1023, or give the program CAP_NET_BIND_SERVICE (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!("; this machine has no address {}: `ip addr` shows those it has", address.ip())
        }
        _ => String::new(),
    }
}

/// One listener per plane on the same address. For port 0 the kernel chooses one port for all.
///
/// # Errors
/// [`ListenError`].
pub(crate) fn bind(address: SocketAddr, planes: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut at = address;
    // First without sharing: SO_REUSEPORT would let a second server of the same user take half of the connections.
    if address.port() != 0 {
        let error = |source| ListenError { address, source };
        open(address, false).and_then(|socket| socket.bind(&SockAddr::from(address))).map_err(error)?;
    }
    (0..planes)
        .map(|_| {
            let listener = listen(at)?;
            at = listener.local_addr()?;
            Ok(listener)
        })
        .collect::<io::Result<_>>()
        .map_err(|source| ListenError { address, source })
}

fn open(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` means IPv6 alone here, so that it can be listed beside `0.0.0.0`.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, true)?;
    socket.bind(&SockAddr::from(address))?;
    // Once here, and not five calls for each connection: what is accepted inherits it on Linux.
    manner(&socket)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// No Nagle (a stream's writes are coalesced already), and probes of a silent peer.
fn manner(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_port_for_all_planes_and_a_helpful_refusal() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = listeners[0].local_addr().unwrap();
        assert!(listeners.iter().all(|l| l.local_addr().unwrap() == address));
        let client = std::net::TcpStream::connect(address).unwrap();
        let accepted = listeners.iter().find_map(|l| l.accept().ok()).unwrap().0;
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.tcp_nodelay().unwrap() && accepted.keepalive().unwrap(), "inherited");
        assert_eq!(accepted.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        drop(client);
        let error = bind(address, 2).unwrap_err().to_string();
        assert!(error.contains("another program listens") && error.contains(&address.port().to_string()), "{error}");
        let error = bind("192.0.2.1:0".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(error.contains("no address 192.0.2.1"), "{error}");
    }
}
