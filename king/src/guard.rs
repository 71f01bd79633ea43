//! Stands before all gRPC services, and lets in what the [`Authority`] allows.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::ServiceExt;
use tower_service::Service;

use crate::{
    authority::{self, Authority, Refusal, Wire},
    connection::Caller,
};

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    pub(crate) authority: Authority,
    pub(crate) service: S,
}

/// What a peer sent as its token.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, bearer) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(bearer)
}

/// What stands before a token (RFC 6750).
const SCHEME: &[u8] = b"Bearer ";

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static, Error: Send + 'static>,
    S: Clone + Send + 'static,
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
        let asked = authority::Request::of_path(request.uri().path());
        match self.authority.judge(wire, bearer(request.headers()), asked) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Box::pin(self.service.call(request))
            }
            // Only in this case is there anything to wait for.
            Err(Refusal::Unknown(_)) => {
                let (authority, service) = (self.authority.clone(), self.service.clone());
                Box::pin(async move {
                    match authority.judge_patiently(wire, bearer(request.headers()), asked).await {
                        Ok(identity) => {
                            request.extensions_mut().insert(identity);
                            service.oneshot(request).await
                        }
                        Err(refusal) => Ok(refuse(&authority, &request, &refusal)),
                    }
                })
            }
            Err(refusal) => Box::pin(std::future::ready(Ok(refuse(&self.authority, &request, &refusal)))),
        }
    }
}

fn refuse(authority: &Authority, request: &Request<Body>, refusal: &Refusal) -> Response<Body> {
    let address = request.extensions().get::<Caller>().and_then(|caller| caller.address);
    authority.tell(address, refusal);
    let text = refusal.to_string();
    let status =
        if refusal.is_about_rights() { Status::permission_denied(text) } else { Status::unauthenticated(text) };
    status.into_http()
}
