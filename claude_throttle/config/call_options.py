"""The keywords of ``submit()``, ``call()``, ``stream()``, ``map()`` and batches, for type checkers.

They are all parameters of the Messages API, those of its beta included, and ours. They stand here
and are not inherited from the SDK's, since each release of it knows others: 2.14 has no
``temperature``, 0.18 no ``tools``. A type that the installed SDK lacks is checked by nobody.

At runtime the names are plain dicts: nothing here imports the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Literal, Optional, Protocol, Union

    from anthropic.types import (  # type: ignore[attr-defined, unused-ignore]
        CacheControlEphemeralParam,
        DiagnosticsParam,
        Message,
        MessageParam,
        OutputConfigParam,
        TextBlockParam,
        ThinkingConfigParam,
        ToolChoiceParam,
        ToolUnionParam,
    )
    from anthropic.types.beta import (  # type: ignore[attr-defined, import-not-found, unused-ignore]
        BetaBillingPolicyParam,
        BetaCompactionConfigParam,
        BetaContainerParams,
        BetaContextManagementConfigParam,
        BetaFallbackCreditTokenParam,
        BetaFallbacksParam,
        BetaMessageParam,
        BetaMessageThreadParam,
        BetaOutputConfigParam,
        BetaRequestMCPServerURLDefinitionParam,
        BetaTextBlockParam,
        BetaThinkingConfigParam,
        BetaToolChoiceParam,
        BetaToolUnionParam,
    )
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, Metadata
    from anthropic.types.messages.batch_create_params import (  # type: ignore[import-not-found, unused-ignore]
        Request,
    )
    from typing_extensions import Required, TypedDict

    from claude_throttle.config.validation import Timeout
    from claude_throttle.core.domain.not_given import Given
    from claude_throttle.core.domain.priority import PriorityLike

    class Unchecked:
        """Nothing has this type, so a dict literal is not a mapping to it; a dict of Any is."""

    class Strings(Protocol):
        """Several strings: any collection but one string, whose ``in`` takes strings only."""

        def __contains__(self, value: object, /) -> bool: ...

        def __iter__(self) -> Iterator[str]: ...

    Betas = Given[Optional[Strings]]
    ExtraFields = Given[Optional[Mapping[str, object]]]

    #: A message, or a dict of Any, about which a type checker knows nothing.
    AnyMessage = Union[MessageParam, BetaMessageParam, Message, Mapping[str, Unchecked]]
    AnyTool = Union[ToolUnionParam, BetaToolUnionParam, Mapping[str, Unchecked]]
    AnySystemBlock = Union[TextBlockParam, BetaTextBlockParam, Mapping[str, Unchecked]]

    class NeededParameters(TypedDict):
        """The parameters that every request has."""

        model: str
        max_tokens: int
        messages: Iterable[AnyMessage]

    class ApiParameters(TypedDict, total=False):
        """The parameters of the Messages API that may be left out; the usual ones first."""

        system: Given[Union[str, Iterable[AnySystemBlock]]]
        temperature: Given[float]
        stop_sequences: Given[Strings]
        tools: Given[Iterable[AnyTool]]
        tool_choice: Given[Union[ToolChoiceParam, BetaToolChoiceParam]]
        thinking: Given[Union[ThinkingConfigParam, BetaThinkingConfigParam]]
        output_config: Given[Union[OutputConfigParam, BetaOutputConfigParam]]
        output_format: Given[Optional[Mapping[str, object]]]
        top_k: Given[int]
        top_p: Given[float]
        metadata: Given[Metadata]
        cache_control: Given[Optional[CacheControlEphemeralParam]]
        service_tier: Given[Literal["auto", "standard_only"]]
        speed: Given[Optional[Literal["standard", "fast"]]]
        inference_geo: Given[Optional[str]]
        container: Given[Union[str, BetaContainerParams, None]]
        context_management: Given[Optional[BetaContextManagementConfigParam]]
        compaction: Given[Optional[BetaCompactionConfigParam]]
        mcp_servers: Given[Iterable[BetaRequestMCPServerURLDefinitionParam]]
        diagnostics: Given[Optional[DiagnosticsParam]]
        fallbacks: Given[Optional[BetaFallbacksParam]]
        fallback_credit_token: Given[Union[str, BetaFallbackCreditTokenParam, None]]
        thread: Given[Optional[BetaMessageThreadParam]]
        billing_policy: Given[Optional[BetaBillingPolicyParam]]
        user_profile_id: Given[str]
        workspace_id: Given[str]

    class OwnOptions(TypedDict, total=False):
        """Every keyword of ``submit()`` but ``raw`` that is no parameter of the API."""

        priority: PriorityLike
        tenant: Optional[str]
        timeout: Timeout
        block: bool
        betas: Betas
        extra_headers: ExtraFields
        extra_body: ExtraFields
        extra_query: ExtraFields

    class BatchParams(NeededParameters, ApiParameters):
        """What a request of a batch may hold."""

    class CallOptions(NeededParameters, OwnOptions, ApiParameters, total=False):
        """Every keyword of ``submit()`` and ``call()`` but ``raw``."""

        stream: Given[Literal[False]]

    class StreamOptions(NeededParameters, OwnOptions, ApiParameters, total=False):
        """Every keyword of ``stream()`` but ``raw``."""

        stream: Given[bool]

    class MapOptions(OwnOptions, ApiParameters, total=False):
        """Those of ``submit()``, none required: a request of ``map()``, or what all have."""

        stream: Given[Literal[False]]
        model: str
        max_tokens: int
        messages: Iterable[AnyMessage]

    class MapKeywords(MapOptions, total=False):
        """What ``map()`` takes beside its requests."""

        look_ahead: Optional[int]

    AnyRequest = Union[
        MapOptions, CallOptions, MessageCreateParamsNonStreaming, Mapping[str, Unchecked]
    ]

    class EstimateOptions(CallOptions, total=False):
        """What ``estimate_wait()`` and ``line_up()`` take: every keyword of ``submit()``."""

        raw: bool

    class BatchEntry(TypedDict, total=False):
        """A request of a batch with a name."""

        custom_id: str
        params: Required[BatchParams]

    AnyBatchRequest = Union[
        BatchParams,
        BatchEntry,
        MessageCreateParamsNonStreaming,
        Request,
        tuple[str, Union[BatchParams, Mapping[str, Unchecked]]],
        Mapping[str, Unchecked],
    ]

else:
    CallOptions = MapOptions = dict
