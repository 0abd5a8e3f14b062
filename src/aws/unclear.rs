//! Calls of which an earlier attempt got no answer: it may have been carried out, whatever the last attempt was told.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

/// Put on an answer here, of no service.
const HEADER: &str = "x-piaas-bake-unclear";

/// That an attempt of this call got no answer, or one of a server that failed.
#[derive(Debug)]
struct Unanswered;

impl Storable for Unanswered {
    type Storer = StoreReplace<Self>;
}

/// Marks the answer to a later attempt: the SDK repeats a call in silence.
#[derive(Debug)]
pub(super) struct MarkUnclear;

impl Intercept for MarkUnclear {
    fn name(&self) -> &'static str {
        "MarkUnclear"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let is_answered = context
            .response()
            .is_some_and(|response| !response.status().is_server_error());
        if !is_answered {
            state.interceptor_state().store_put(Unanswered);
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        state: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if state.load::<Unanswered>().is_some() {
            context.response_mut().headers_mut().insert(HEADER, "true");
        }
        Ok(())
    }
}

/// Whether an earlier attempt of the call may have been carried out.
pub(super) fn is_unclear(response: &HttpResponse) -> bool {
    response.headers().contains_key(HEADER)
}
