//! `loadtest worker`: makes its part of a load for a controller, one run at a time.

use super::proto::report::What;
use super::proto::worker_server::{Worker as Service, WorkerServer};
use super::proto::{Job, Order, Report, order};
use super::token::{self, Token};
use super::{ALIVE_EVERY, ALIVE_MAX, CONNECT_MAX, ORDER_BYTES_MAX, REPORT_BYTES_MAX, REPORTS_MAX, wire};
use crate::file::File;
use crate::progress::Progress;
use crate::run;
use crate::scenario::{Event, Outcome, Part, Run};
use crate::tls::Trust;
use anyhow::{Context as _, Result, ensure};
use futures::Stream;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// Streams of one connection. A controller needs one; some more are there to be told that the worker is busy.
const STREAMS_MAX: u32 = 8;
/// A controller that has read nothing for so long has left the run.
const READS_MAX: Duration = Duration::from_secs(10);

/// What the command line says.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address and port; with port 0 a free one, which is told on standard output
    #[arg(long, default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,
    /// File of a token that controllers must have; without it, the variable `LOADTEST_TOKEN`. Beyond the loopback there must be one
    #[arg(long)]
    pub token: Option<PathBuf>,
    /// Source addresses of this host, as 127.0.0.2-9,10.0.0.1, in place of what controllers say
    #[arg(long)]
    pub bind: Option<String>,
    /// Ends together with standard input, and tells nothing of its runs: for a process that starts workers itself
    #[arg(long, hide = true)]
    pub leashed: bool,
}

/// A worker, before it listens.
#[derive(Debug)]
pub struct Worker {
    token: Option<Token>,
    bind: Option<String>,
    /// Tells on standard error what comes and goes.
    telling: bool,
    free: Arc<Semaphore>,
}

/// Listens, and works until the process ends.
///
/// # Errors
/// An address that is taken; one that strangers can reach, and no token.
pub async fn run(args: Args) -> Result<()> {
    run::raise_open_files();
    let token = Token::read(args.token.as_deref())?;
    let open = !args.listen.ip().is_loopback();
    ensure!(token.is_some() || !open, "{} can be reached by others: give --token or {}", args.listen, token::VARIABLE);
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("listening on {}", listener.local_addr()?);
    if args.leashed {
        // A thread, because standard input cannot be waited for in another way; the process ends with it.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    Worker::new(token, args.bind, !args.leashed).serve(listener).await
}

impl Worker {
    /// Tells on standard error what comes and goes, if it shall.
    pub fn new(token: Option<Token>, bind: Option<String>, telling: bool) -> Worker {
        Worker { token, bind, telling, free: Arc::new(Semaphore::new(1)) }
    }

    /// Works until the process ends.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(self, listener: TcpListener) -> Result<()> {
        let server = Server::builder().http2_keepalive_interval(Some(ALIVE_EVERY)).http2_keepalive_timeout(Some(ALIVE_MAX));
        let service = WorkerServer::new(self).max_decoding_message_size(ORDER_BYTES_MAX).max_encoding_message_size(REPORT_BYTES_MAX);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let mut server = server.max_concurrent_streams(STREAMS_MAX);
        server.add_service(service).serve_with_incoming(incoming).await.context("no longer listening")
    }
}

struct Prepared {
    name: String,
    file: File,
    run: Run,
    part: Arc<Part>,
    events: mpsc::Receiver<Event>,
}

impl Prepared {
    /// It may wait for the name of the server to be resolved.
    fn of(job: Job, bind: Option<String>) -> Result<Prepared> {
        let mut file = File::parse(&job.scenario, &[])?;
        file.server.bind = bind.or(file.server.bind);
        ensure!((0.0..=1.0).contains(&job.before) && (0.0..=1.0).contains(&job.share), "a part is a part of one");
        let trust = job.authorities.map_or(Trust::Anybody, Trust::Pem);
        let (part, events) = Part::new(job.before, job.share);
        let run = run::prepare_with(&file, &trust)?;
        let run = Run { progress: Arc::new(Progress::silent()), part: Some(part.clone()), ..run };
        Ok(Prepared { name: format!("{}, part {} of {}", file.work.name(), job.number, job.parts), file, run, part, events })
    }
}

#[tonic::async_trait]
impl Service for Worker {
    type RunStream = Pin<Box<dyn Stream<Item = Result<Report, Status>> + Send>>;

    async fn run(&self, request: Request<Streaming<Order>>) -> Result<Response<Self::RunStream>, Status> {
        if self.token.as_ref().is_some_and(|token| !token.is_in(request.metadata())) {
            return Err(Status::unauthenticated("not the worker's token"));
        }
        let Ok(busy) = self.free.clone().try_acquire_owned() else {
            return Err(Status::resource_exhausted("busy with another run"));
        };
        let from = request.remote_addr().map(|address| address.to_string()).unwrap_or_default();
        let mut orders = request.into_inner();
        let first = tokio::time::timeout(CONNECT_MAX, orders.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no job"))??;
        let Some(order::What::Job(job)) = first.and_then(|order| order.what) else {
            return Err(Status::invalid_argument("a job comes first"));
        };
        wire::same_version(&job.version).map_err(|error| Status::failed_precondition(error.to_string()))?;
        let bind = self.bind.clone();
        let prepared = tokio::task::spawn_blocking(move || Prepared::of(job, bind)).await.context("no job").flatten();
        let prepared = prepared.map_err(|error| Status::invalid_argument(wire::bounded(&format!("{error:#}"))))?;
        let load = Load::start(prepared.file, prepared.run).map_err(|error| Status::internal(error.to_string()))?;
        let (reports, mut told) = mpsc::channel(REPORTS_MAX);
        let (part, events, name) = (prepared.part, prepared.events, prepared.name);
        let name = self.telling.then_some(name);
        let session = Session { name, orders, reports, part, events, load, _busy: busy };
        session.say(&format!("begins, for {from}"));
        tokio::spawn(session.work());
        Ok(Response::new(Box::pin(futures::stream::poll_fn(move |cx| told.poll_recv(cx)))))
    }
}

/// The load of one run, on threads of its own: the worker answers its controller however much there is to do, and whatever
/// a scenario has started ends together with it.
struct Load {
    runtime: Option<Runtime>,
    work: JoinHandle<Result<Outcome>>,
}

impl Load {
    fn start(file: File, run: Run) -> Result<Load> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let work = runtime.spawn(async move { file.work.run(&run).await });
        Ok(Load { runtime: Some(runtime), work })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One run, for one controller.
struct Session {
    /// What it calls itself on standard error, if it does.
    name: Option<String>,
    orders: Streaming<Order>,
    reports: mpsc::Sender<Result<Report, Status>>,
    part: Arc<Part>,
    events: mpsc::Receiver<Event>,
    load: Load,
    _busy: OwnedSemaphorePermit,
}

impl Session {
    fn say(&self, words: &str) {
        say(self.name.as_deref(), words);
    }

    /// Until the load is over, or the controller is gone.
    async fn work(self) {
        let name = self.name.clone();
        let end = self.end().await;
        say(name.as_deref(), &end);
    }

    /// The same; how it ended, in words.
    async fn end(mut self) -> String {
        let done = loop {
            tokio::select! {
                order = self.orders.message() => match order.map(|order| order.and_then(|o| o.what)) {
                    Ok(Some(order::What::Go(_))) => {
                        self.say("goes on");
                        self.part.go();
                    }
                    Ok(Some(order::What::Job(_))) => return "stopped: its controller has sent a second job".into(),
                    Ok(None) => return "stopped: its controller is gone, or wants no more".into(),
                    Err(status) => return format!("stopped: its controller is gone ({})", status.message()),
                },
                () = self.reports.closed() => return "stopped: its controller is gone".into(),
                Some(event) = self.events.recv() => if let Err(why) = tell(&self.reports, wire::of_event(event), READS_MAX).await {
                    return why;
                },
                done = &mut self.load.work => break done,
            }
        };
        while let Ok(event) = self.events.try_recv() {
            if let Err(why) = tell(&self.reports, wire::of_event(event), READS_MAX).await {
                return why;
            }
        }
        let (last, words) = match done.context("it has panicked").flatten() {
            Ok(outcome) => {
                let words = format!("done, {} counted", outcome.count);
                (What::Outcome(wire::of_outcome(outcome)), words)
            }
            Err(error) => {
                let error = wire::bounded(&format!("{error:#}"));
                (What::Failure(error.clone()), format!("failed: {error}"))
            }
        };
        let Session { orders: _orders, reports, load, _busy, .. } = self;
        // Free before the controller knows, which may have the next run ready.
        drop((load, _busy));
        tell(&reports, wire::report(last), READS_MAX).await.err().unwrap_or(words)
    }
}

fn say(name: Option<&str>, words: &str) {
    if let Some(name) = name {
        eprintln!("{name}: {words}");
    }
}

/// Waits for a slow controller, but not for ever.
async fn tell(reports: &mpsc::Sender<Result<Report, Status>>, report: Report, wait: Duration) -> Result<(), String> {
    reports.send_timeout(Ok(report), wait).await.map_err(|error| match error {
        SendTimeoutError::Timeout(_) => "stopped: its controller does not read".into(),
        SendTimeoutError::Closed(_) => "stopped: its controller is gone".into(),
    })
}

#[cfg(test)]
mod tests;
