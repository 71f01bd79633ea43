//! Stands before all gRPC services, and lets in what the [`Authority`] allows.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use distwasm_process::{clock::Clock, repeats::Repeats};
use http::{Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower_service::Service;
use tracing::warn;

use crate::{
    authority::{Authority, Refusal, Wire},
    connection::Caller,
};

/// The guard, of which each connection has a copy.
#[derive(Clone, Debug)]
pub(crate) struct Guard {
    authority: Authority,
    clock: Clock,
    /// Bounds how often the log says that peers are refused.
    repeats: Arc<Mutex<Repeats>>,
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    service: S,
}

impl Guard {
    pub(crate) fn new(authority: Authority) -> Guard {
        Guard { authority, clock: Clock::start(), repeats: Arc::default() }
    }

    pub(crate) fn before<S>(&self, service: S) -> Guarded<S> {
        Guarded { guard: self.clone(), service }
    }

    fn tell(&self, caller: Option<&Caller>, refusal: Refusal) {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refusals) = repeats.count(self.clock.now(), &refusal.to_string()) {
            let peer = caller.and_then(|caller| caller.address).map(|address| address.to_string());
            warn!(peer, refusals, why = %refusal, "a peer is not let in");
        }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static, Error: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let wire = caller.map_or(Wire::Plain, |caller| caller.wire);
        let bearer = request.headers().get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let bearer = bearer.and_then(|header| header.strip_prefix("Bearer "));
        match self.guard.authority.judge(wire, bearer, request.uri().path()) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Box::pin(self.service.call(request))
            }
            Err(refusal) => {
                self.guard.tell(caller, refusal);
                let response = Status::unauthenticated(refusal.to_string()).into_http();
                Box::pin(std::future::ready(Ok(response)))
            }
        }
    }
}
