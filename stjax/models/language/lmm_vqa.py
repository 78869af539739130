"""LMM-VQA (Ge et al. 2024, arXiv 2408.14008): a language model that is asked how good a video is.

A key frame a second goes through CLIP, a clip a second through SlowFast; two small projectors bring
both to the language model's embeddings, where they stand in the question for `<image>`. The
answer is a text: a score of 0 to 100, or good, fair or poor.
"""

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stjax.layers.initializers import torch_default
from stjax.layers.partitioning import named
from stjax.layers.transformer import PreNormBlock
from stjax.models.backbones import clip
from stjax.models.backbones.llama import IMAGE, PAD, TEXT, Decoder, State, embedding, head
from stjax.models.backbones.slowfast import SlowFast
from stjax.ops.attention import attention

Tokens = Float[Array, "b n c"]
Ids = Int[Array, "b n"]

AGGREGATES = ("mean", "interleave")


def mmca(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m g d"],
    v: Float[Array, "b m g d"],
    mask: Any,
    *,
    kinds: Int[Array, "b m"],
    leak: bool = False,
    **options: Any,
) -> Float[Array, "b n h d"]:
    """Multi-modal causal attention: one softmax over image tokens and one over text, added.

    (DeepSpeed-VisualChat, Yao et al. 2023, arXiv 2309.14327, section 3.) Image tokens see
    themselves and the text before them. The weights of a token that sees both kinds sum to two.

    Args:
        kinds: of the keys, the last n of which are those of the queries.
        leak: as published: where a softmax may see no key, it sees evenly the tokens of other
            kinds up to the query, and those of its own kind after it. So texts see images that are
            still to come. False: it gives nothing, as in a stream that goes on.
    """
    own = kinds[:, -q.shape[1] :]
    branches = []
    for kind in (IMAGE, TEXT):
        shown = kinds == kind
        seen = attention(q, k, v, mask, key_mask=shown, **options)
        if leak and q.shape[1] == k.shape[1]:
            none = jnp.cumsum(shown, 1) == 0
            seen = jnp.where(none[..., None, None], _leaked(q, k, v, shown), seen)
        branches.append(seen)
    itself = jnp.repeat(v[:, -q.shape[1] :], q.shape[2] // k.shape[2], 2)
    return jnp.where((own == IMAGE)[..., None, None], itself, branches[0]) + branches[1]


def _leaked(q, k, v, shown):
    """An even mean of the values, with the gradient of the softmax that it stands for.

    Theirs adds the least float of 32 bits for each mask, which swallows the logits where one of
    two masks hides the key. Their derivative stays; so products that are zero have it here.
    """
    fixed = jax.lax.stop_gradient
    q, k = (jnp.concatenate(x, -1) for x in ((q - fixed(q), fixed(q)), (fixed(k), k - fixed(k))))
    at = jnp.arange(q.shape[1])
    hidden_once = (at > at[:, None]) == shown[:, None]
    bias = jnp.where(hidden_once, 0, -jnp.inf)[:, None]
    return attention(q, k, v, bias=bias, scale=(q.shape[-1] / 2) ** -0.5)


class MotionProjector(nn.Module):
    """The temporal projector: a linear map and a LayerNorm of each second's motion.

    Attributes:
        width: of a key frame's tokens.
    """

    width: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, motion: Float[Array, "b s m"]) -> Float[Array, "b s width"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        init = named(torch_default, None, "embed")
        x = nn.Dense(self.width, kernel_init=init, name="in", **dtypes)(motion)
        return nn.LayerNorm(1e-12, name="norm", **dtypes)(x)


class SpatialProjector(nn.Module):
    """A CLIP block over the joint tokens, a linear map to the language's width, a LayerNorm.

    Attributes:
        features: the language model's width.
    """

    features: int
    heads: int
    hidden: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: Tokens, *, train: bool = False) -> Float[Array, "b n features"]:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        block = PreNormBlock(self.heads, self.hidden, **clip.BLOCK, name="block", **dtypes)
        x, _ = block(tokens, train=train)
        init = named(torch_default, None, "embed")
        x = nn.Dense(self.features, kernel_init=init, name="out", **dtypes)(x)
        return nn.LayerNorm(1e-12, name="norm", **dtypes)(x)


class LmmVqa(nn.Module):
    """The whole: `see` gives a video's tokens, `read` goes through a text that holds them.

    Attributes:
        vocabulary, width: of the language model.
        image_token, pad_token: ids of `<image>` and of padding.
        branches: which kinds of visual tokens there are: "spatial", "motion" or both.
        aggregate: what becomes of the seconds: "mean", as published, averages their tokens place
            by place; "interleave", as in the paper's figure, has all tokens of a second, its motion
            last, before those of the next.
        align: whether a second's motion token is the mean of its spatial tokens, weighted by a
            softmax of its products with them, as a figure of the paper has it. (The published
            code's `fuse_motion_token`, which nothing calls.)
        regresses: whether a linear map of the hidden state before an answer gives a number too, by
            which encoders that were not trained before can be taught (not the paper's).
        frozen: names of parameters that are not trained; their networks run as in evaluation.
    """

    clip: clip.ClipVision
    slowfast: SlowFast
    language: Decoder
    vocabulary: int
    width: int
    image_token: int
    pad_token: int = 0
    branches: tuple[str, ...] = ("spatial", "motion")
    aggregate: str = "mean"
    align: bool = False
    regresses: bool = False
    frozen: tuple[str, ...] = ()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its parameters."""
        spatial = ("clip",) * ("spatial" in self.branches)
        motion = ("slowfast", "motion_projector") * ("motion" in self.branches)
        regressor = ("regressor",) * self.regresses
        return (*spatial, *motion, "projector", "embedding", "language", "head", *regressor)

    def setup(self):
        if self.aggregate not in AGGREGATES:
            raise ValueError(f"aggregate: {self.aggregate!r} is none of {AGGREGATES}")
        if not self.branches or set(self.branches) - {"spatial", "motion"}:
            raise ValueError(f"branches: {self.branches} are none of 'spatial', 'motion'")
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        clip = self.clip
        self.motion_projector = MotionProjector(clip.width, **dtypes)
        self.projector = SpatialProjector(self.width, clip.heads, clip.hidden, **dtypes)
        self.embedding = embedding(self.vocabulary, self.width, **dtypes)
        self.head = head(self.vocabulary, **dtypes)
        if self.regresses:
            self.regressor = nn.Dense(1, **dtypes)

    def __call__(
        self,
        frames: Float[Array, "b s h w c"],
        clips: Float[Array, "b s f h w c"],
        prompts: Int[Array, "b k p"],
        answers: Int[Array, "b k a"],
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b k a vocabulary"], Float[Array, "b k"] | None]:
        """Logits of every token of the answers to k prompts, each told the tokens before it; and
        the number of each, if the model `regresses`.

        Args:
            frames: a key frame a second, as CLIP wants it.
            clips: a clip a second, as SlowFast wants it.
            prompts: padded in front, with one image token each.
            answers: padded behind.
        """
        k, length = answers.shape[1:]
        visual = jnp.repeat(self.see(frames, clips, train=train), k, 0)
        ids = jnp.concatenate([prompts, answers[..., :-1]], 2).reshape(len(visual), -1)
        hidden, _ = self.read(visual, ids, train=train)
        logits = self.head(hidden[:, -length:]).reshape(*answers.shape, self.vocabulary)
        if not self.regresses:
            return logits, None
        return logits, self.regressor(hidden[:, -length]).reshape(answers.shape[:2])

    def see(
        self,
        frames: Float[Array, "b s h w c"],
        clips: Float[Array, "b s f h w c"],
        *,
        train: bool = False,
    ) -> Float[Array, "b v width"]:
        """A video's tokens among the language model's."""
        apart = lambda x: x.reshape(-1, *x.shape[2:])
        learns = lambda name: train and name not in self.frozen
        features, motion = None, None
        if "spatial" in self.branches:
            features, _ = self.clip(apart(frames), train=learns("clip"))
            features = features.reshape(*frames.shape[:2], *features.shape[1:])
        if "motion" in self.branches:
            motion = self.slowfast(apart(clips), train=learns("slowfast"))
            motion = motion.reshape(*clips.shape[:2], -1)
        return self.project(features, motion, train=train)

    def project(
        self,
        features: Float[Array, "b s n c"] | None,
        motion: Float[Array, "b s m"] | None,
        *,
        train: bool = False,
    ) -> Float[Array, "b v width"]:
        """What CLIP and SlowFast found in each second, as tokens among the language model's."""
        parts = [] if features is None else [features]
        if motion is not None:
            token = self.motion_projector(motion)[:, :, None]
            parts.append(aligned(token, features) if self.align else token)
        joint = jnp.concatenate(parts, 2)
        if self.aggregate == "mean":
            joint = joint.mean(1)
            self.sow("intermediates", "joint", joint)
            return self.projector(joint, train=train)
        visual = self.projector(einops.rearrange(joint, "b s n c -> (b s) n c"), train=train)
        return einops.rearrange(visual, "(b s) n c -> b (s n) c", b=len(joint))

    def read(
        self, visual: Float[Array, "b v width"], ids: Ids, *, train: bool = False
    ) -> tuple[Float[Array, "b m width"], State]:
        """The hidden states of a text in which visual tokens stand for the image token.

        Raises:
            ValueError: more tokens than the language model's context holds.
        """
        x, kinds = splice(ids, self.embedding(ids), visual, self.image_token, self.pad_token)
        return self.language(x, None, kinds, train=train)

    def start(
        self, visual: Float[Array, "b v width"], ids: Ids
    ) -> tuple[Float[Array, "b vocabulary"], State]:
        """Logits of the first token of an answer to prompts that are padded in front."""
        hidden, state = self.read(visual, ids)
        return self.head(hidden[:, -1]), state

    def step(
        self, token: Int[Array, " b"], state: State
    ) -> tuple[Float[Array, "b vocabulary"], State]:
        """Logits of the token after this one."""
        kinds = jnp.full((len(token), 1), TEXT)
        hidden, state = self.language(self.embedding(token)[:, None], state, kinds)
        return self.head(hidden[:, -1]), state


def aligned(
    motion: Float[Array, "b s 1 c"], features: Float[Array, "b s n c"]
) -> Float[Array, "b s 1 c"]:
    """Each second's spatial tokens, weighted by how well they go with its motion token."""
    apart = lambda x: einops.rearrange(x, "b s n c -> (b s) n 1 c")
    y = attention(apart(motion), apart(features), apart(features))
    return y.reshape(motion.shape)


def splice(
    ids: Ids, embedded: Tokens, visual: Float[Array, "b v c"], image_token: int, pad_token: int
) -> tuple[Float[Array, "b m c"], Int[Array, "b m"]]:
    """Puts visual tokens where the image token stands, wherever that is in each text.

    Args:
        ids: texts with one image token each.
        embedded: the same, embedded.

    Returns:
        All tokens, n - 1 + v of them, and their kinds (see `stjax.models.backbones.llama`).
    """
    count = visual.shape[1]
    place = jnp.argmax(ids == image_token, axis=1)[:, None]
    at = jnp.arange(ids.shape[1] - 1 + count)
    seen = (at >= place) & (at < place + count)
    source = jnp.clip(jnp.where(at < place, at, at - count + 1), 0)
    take = lambda x, at: jnp.take_along_axis(x, at[..., None], 1)
    image = take(visual, jnp.clip(at - place, 0, count - 1))
    kinds = jnp.where(jnp.take_along_axis(ids, source, 1) == pad_token, PAD, TEXT)
    tokens = jnp.where(seen[..., None], image.astype(embedded.dtype), take(embedded, source))
    return tokens, jnp.where(seen, IMAGE, kinds)
