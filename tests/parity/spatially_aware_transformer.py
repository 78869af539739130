"""Spatially-Aware Transformer: its layers, its three networks, and the authors' makers of data."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax

from stjax.convert import spatially_aware_transformer as convert
from stjax.envs import room_ballet
from stjax.envs.grid_walk import GridWalk, WalkState
from stjax.models.language.spatially_aware_transformer import sine_code
from stjax.ops import episodic_memory
from tests.parity import Case


def hcam(golden):
    module = convert.memory(golden.config, "thcams")

    def forward(variables, inputs):
        queries, memory = inputs["queries"], inputs["memory"]
        queries = queries[:, None]
        out, inner = module.apply(
            variables, queries, memory, golden.inputs["mask"], mutable="intermediates"
        )
        inner = inner["intermediates"]["layers"]
        return (out**2).mean(), {
            "lablock0": inner["attended"][0][0][:, 0], "hcamblock0": inner["read"][0][0][:, 0],
            "layer0": inner["out"][0][0][:, 0], "out": out[:, 0],
            "out_nomask": module.apply(variables, queries, memory)[:, 0],
        }

    return Case(forward, convert.layers(golden.config, "", ""))


def shortstay(golden):
    base, sizes = golden.config["base"], golden.config["base"]["data"]
    walk, asked = golden.inputs["time_action"], golden.inputs["label_indices"]
    rooms, dance, delay = walk[..., 0], sizes["dance_time"], sizes["delay_time"]
    # Of a room's frames the last one stands still for a while before the dance begins.
    shown = np.maximum(walk[..., 1] % (dance + delay) - delay, -1) % dance
    seen, last = rooms * dance + shown, asked[:, None] * dance + dance - 1
    labels = golden.inputs["motions"][np.arange(len(asked)), asked]
    frames = jnp.asarray(golden.inputs["image"])

    def variants(variables):
        outputs = {}
        for name, changed in golden.config["variants"].items():
            config = {**base, **changed, "hcam": {**base["hcam"], **changed.get("hcam", {})}}
            module = convert.short_stay(config, walk.shape[1])
            logits, inner = module.apply(
                variables, frames / 255, seen, rooms, walk[..., 1], last[:, None],
                mutable="intermediates",
            )
            logits = logits[:, 0]
            inner = inner["intermediates"]
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            outputs |= {
                f"{name}/layer0": inner["memory"]["layers"]["out"][0][0][:, 0],
                f"{name}/logits": logits, f"{name}/loss": loss,
            }
            items = inner["items"][0]
            outputs["memory_place" if name == "shcams" else "memory_time"] = items
        return loss, outputs  # of the last one, shcams

    def forward(variables, inputs):
        del inputs
        slopes, outputs = jax.grad(variants, has_aux=True)(variables)
        slopes = slopes["params"]
        by_query = slopes["memory"]["layers"]["hcam"]["summary_query"]["kernel"][0]
        period, num_rooms = dance + delay, sizes["n_space"]
        order = jax.vmap(lambda p: episodic_memory.place_order(
            p, num_rooms, period, golden.inputs["pm_action"].shape[1]
        ))(jnp.asarray(rooms))
        encoder = convert.short_stay(base, walk.shape[1]).encoder
        features = encoder.apply({"params": variables["params"]["encoder"]}, frames / 255)
        # What the official code gathers where there is nothing, and masks: room 0 at step 0.
        width = features.shape[-1]
        nothing = features[:, dance - 1] + sine_code(np.array(0), walk.shape[1], width)
        nothing += sine_code(np.array(0), num_rooms, width)
        held = order >= 0
        items = jnp.where(held[..., None], outputs["memory_place"], nothing[:, None])
        first = jnp.concatenate([jnp.full(delay, dance - 1), jnp.arange(dance)])[:8]
        return None, {
            **outputs,
            "shcams/grad:encoder.conv1.weight": einops.rearrange(
                slopes["encoder"]["conv_0"]["kernel"], "h w i o -> o i h w"
            ),
            "shcams/grad:memory_model.0.hcamblock.attn.to_summary_queries.weight": by_query.T,
            "memory_time": outputs["memory_time"][:, ::3],
            "memory_place": items[:, ::5], "mask_place": held,
            "encoder_features": features[0][first],
        }

    return Case(forward, convert.ballet_rules(base), convert.UNREAD)


def multitask(golden):
    sizes, given = golden.config["data"], golden.inputs
    reader, allocator = convert.multi_task(golden.config)
    dance, delay = sizes["dance_time"], sizes["delay_time"]
    shown = np.concatenate([np.full(delay, dance - 1), np.arange(dance)])
    rows = np.arange(len(given["motion"]))
    tasks = rows % 4
    label = given["task_label"][rows, tasks]
    frames = jnp.asarray(given["image"])

    def forward(variables, inputs):
        params = variables["params"]
        values = allocator.apply({"params": params["allocator"]}, jnp.eye(4)[tasks])
        heuristic = values.argmax(1)
        kept = jnp.asarray(given["task_heur"])[rows, heuristic]
        seen = (kept[..., None] * dance + shown).reshape(len(rows), -1)
        places = jnp.repeat(jnp.asarray(given["space"])[rows[:, None], kept], len(shown), axis=1)
        times = jnp.broadcast_to(jnp.arange(seen.shape[1]), seen.shape)
        asked = jnp.repeat(label[:, None] * dance + dance - 1, dance, axis=1)
        logits, inner = reader.apply(
            {"params": params["reader"]}, frames / 255, seen, places, times, asked[:, None],
            mutable="intermediates",
        )
        logits = logits[:, 0]
        inner = inner["intermediates"]
        labels = given["motion"][rows, label]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        errors = -jax.lax.stop_gradient(each) - values[rows, heuristic]
        loss, bandit = each.mean(), (errors**2).mean()
        return loss + 0.1 * bandit, {
            "q_values": values, "heuristic": heuristic, "memory": inner["items"][0][:, ::4],
            "layer0": inner["memory"]["layers"]["out"][0][0][:, 0, :1], "logits": logits,
            # The official sum of losses is made in place, and celoss is the same storage.
            "celoss": loss + 0.1 * bandit, "qloss": bandit, "loss": loss + 0.1 * bandit,
            "acc": (logits.argmax(1) == labels).mean(),
        }

    rules = convert.ballet_rules(golden.config, "reader/")
    return Case(forward, (*rules, *convert.allocator_rules("allocator/")), convert.UNREAD)


def ffhq(golden):
    base, given = golden.config["base"], golden.inputs
    sizes, length = base["data"], base["data"]["memorize"]
    side, step, width = sizes["len_mv"], sizes["mv"], sizes["width"]
    corner = np.arange(side)[:, None] * step + np.arange(width)
    rows, columns = corner[:, None, :, None], corner[None, :, None, :]
    groups = given["knn_idx"][:, base["cluster_rand"]]
    positions = given["position"].astype(np.int32)

    def variants(variables, image):
        image = einops.rearrange(image, "b c h w -> b h w c")
        views = einops.rearrange(image[:, rows, columns], "b r c ... -> b (r c) ...")
        cells = positions[:, length + 1 :, 0] * side + positions[:, length + 1 :, 1]
        truth = jax.vmap(lambda views, cells: views[cells])(views, cells)
        outputs = {}
        for name, changed in golden.config["variants"].items():
            config = {**base, **changed, "hcam": {**base["hcam"], **changed.get("hcam", {})}}
            module = convert.imagination(config, int(groups.max()) + 1)
            predicted, inner = module.apply(
                variables, views, positions, given["action"].astype(np.int32), groups,
                mutable="intermediates",
            )
            inner = inner["intermediates"]
            loss = ((predicted[:, 1:] - truth) ** 2).mean()
            outputs |= {f"{name}/tokens": inner["tokens"][0], f"{name}/loss": loss}
        return loss, {  # of the last one, space_model
            **outputs, "encoder_features": inner["features"][0][0, :6],
            "space_model/pred": einops.rearrange(predicted[:, 1:3], "b n h w c -> b n c h w"),
        }

    def forward(variables, inputs):
        slopes, outputs = jax.grad(variants, has_aux=True)(variables, inputs["image"])
        slopes = slopes["params"]
        by_key = slopes["memory"]["layers"]["hcam"]["summary_key"]["kernel"][0]
        return None, {
            **outputs, "space_model/grad:action_emb.weight": slopes["actions"]["embedding"],
            "space_model/grad:memory_model.0.hcamblock.attn.to_summary_keys.weight": by_key.T,
        }

    rules = convert.imagination_rules({**base, "model_type": "space_model"})
    return Case(forward, rules, convert.LEFT_OUT)


def heuristics(golden):
    capacity, num_places = golden.config["capacity"], golden.config["max_room"]

    def forward(variables, inputs):
        allocate = lambda rooms, heuristic: episodic_memory.allocate(
            rooms, heuristic, capacity, num_places
        )
        each = jax.vmap(jax.vmap(allocate, (None, 0)), (0, None))
        rooms = jnp.asarray(golden.inputs["rooms"])
        kept = each(rooms, jnp.arange(4))
        places = jax.vmap(lambda rooms, kept: rooms[kept])(rooms, kept[:, 2:])
        counts = (places[..., None] == jnp.arange(num_places)).sum(2)
        return None, {"kept": kept, "room_counts": counts}

    return Case(forward)


def ballet(golden):
    rng, world = np.random.default_rng(golden.config["rng_seed"]), room_ballet.BalletTour()
    rng.integers(world.dancers)
    motions, letters, colours, shapes = (list(range(n)) for n in (8, 25, 19, 15))
    for names in (motions, letters, colours, shapes):
        rng.shuffle(names)
    last, first, rooms = np.arange(14), np.arange(8), np.arange(8)
    for order in (last, first, rooms):
        rng.shuffle(order)
    rng = np.random.RandomState(golden.config["np_seed"])
    asked = np.array([rng.randint(9, 18) - 9, rng.randint(9), rng.choice(8), rng.choice(8)])
    draws = (motions, colours, shapes, first, last, rooms, asked)
    draws = room_ballet.TourDraws(*map(jnp.asarray, draws))
    # Where the official code puts the dancers: rows of rooms, that end at the right wall.
    grid = [(2 + 4 * row, 30 - 4 * k) for row, n in enumerate(world.visits) for k in range(n)[::-1]]
    order = np.concatenate([np.arange(4), 4 + last])
    order[:8] = order[:8][first]

    def forward(variables, inputs):
        cast, places, asked = world.tour(draws)
        kept = jax.vmap(lambda h: episodic_memory.allocate(places, h, 9, 8))(jnp.arange(4))
        return None, {
            "image": room_ballet.videos(cast), **cast._asdict(),
            "templates": jnp.asarray(room_ballet.templates()),
            "palette": jnp.asarray(room_ballet.PALETTE), "space": places, "task_heur": kept,
            "task_label": asked, "positions": jnp.asarray(grid)[order],
        }

    return Case(forward)


def walks(golden):
    config, given = golden.config, golden.inputs
    rooms, chunk, world = config["num_rooms"], config["chunk"], GridWalk(config["grid"])

    def walk(start, actions):
        act = lambda room, action: (room_ballet.moved(room, action, int(rooms**0.5)),) * 2
        places = jnp.append(start, jax.lax.scan(act, start, actions)[1])
        length = rooms * chunk + len(places)
        order = episodic_memory.place_order(places, rooms, chunk, length)
        time = jnp.stack([places, jnp.arange(len(places))], 1)
        return time, jnp.where(order[:, None] < 0, jnp.array([0, -1]), time[order])

    def allowed(positions):
        def visit(visits, position):
            visits = visits.at[tuple(position)].add(1)
            return visits, world.fresh(WalkState(position, visits))

        return jax.lax.scan(visit, jnp.zeros((world.side,) * 2, int), positions[:-1])[1]

    def forward(variables, inputs):
        starts, actions, clusters = (
            jnp.asarray(given[name]) for name in ("start_room", "room_actions", "clusters")
        )
        time, place = jax.vmap(walk)(starts, actions)
        by_cluster = lambda c: episodic_memory.place_order(
            c, 4, config["ffhq_chunk"], 2 * clusters.shape[1], "drop"
        )
        return None, {
            "time_memory": time, "place_memory": place,
            "cluster_sorted": jax.vmap(by_cluster)(clusters),
            "grid_allowed": jax.vmap(allowed)(jnp.asarray(given["grid_walk"])),
        }

    return Case(forward)


def sine(golden):
    length, dim = golden.config["length"], golden.config["dim"]
    return Case(lambda variables, inputs: (
        None, {"table": sine_code(jnp.arange(length), length, dim)}
    ))


DRIVERS = {
    f"spatially_aware_transformer::{driver.__name__}": driver
    for driver in (hcam, shortstay, multitask, ffhq, ballet, heuristics, walks, sine)
}
