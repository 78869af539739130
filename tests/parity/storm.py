"""STORM: Gaussians, velocities, rendering, losses; its rays, rasteriser and flow metrics."""

import dataclasses

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from stjax.convert import storm as convert
from stjax.metrics.scene_flow import scene_flow_metrics
from stjax.ops.cameras import coarser, pluecker, rays, to_camera
from stjax.ops.splatting import Gaussians, project, rasterise
from stjax.tasks.scene_reconstruction import SceneReconstruction
from tests import quick
from tests.parity import Case

LAST = "b t v c h w -> b t v h w c"
SCENE = {
    "gs_means": "means", "gs_scales": "scales", "gs_quats": "quaternions",
    "gs_opacities": "opacities", "gs_colors": "features", "gs_depths": "depths",
    "gs_motion_weights": "weights", "gs_forward_flow": "velocities",
}
LOSSES = {
    "rgb_loss": "colour", "depth_loss": "depth", "flow_reg_loss": "flow",
    "sky_opacity_loss": "sky", "decoded_depth_loss": "decoded_depth",
    "sky_decodede_depth_loss": "sky_depth",
}


def model(golden):
    arguments, span = golden.config["model"], golden.config["timespan"]
    # Tiles that lose nothing; smaller ones than the default, of less work.
    module = dataclasses.replace(
        convert.module(arguments), timespan=span, tile=8, capacity=1024
    )
    task = SceneReconstruction(module)
    rows, columns = (
        jnp.asarray(golden.config[f"gaussian_{axis}"]) for axis in ("rows", "columns")
    )

    def forward(variables, inputs):
        named = lambda which: {
            f"{which}_intrinsics": inputs[f"{which}_intrinsics"],
            f"{which}_pose": inputs[f"{which}_camtoworlds"],
            f"{which}_time": inputs[f"{which}_time"] * span,
            f"{which}_video": (einops.rearrange(inputs[f"{which}_image"], LAST) + 1) / 2,
        }
        batch = named("context") | named("target")
        batch |= {
            "target_depth": inputs["target_depth"], "target_sky": inputs["target_sky_masks"]
        }
        video, cameras, targets = task._inputs(batch)
        with nn.intercept_methods(quick.conv_as_product):
            rendered, inner = module.apply(
                variables, video, cameras, targets, train=True, mutable="intermediates"
            )
        inner = inner["intermediates"]
        scene, affine, colours = (inner[name][0] for name in ("maps", "exposures", "colours"))
        # What differs out of training is what is splatted.
        size = colours.shape[3:5]
        targets = targets._replace(
            intrinsics=coarser(targets.intrinsics, video.shape[3] // size[0])
        )
        _, shown, weights, *_ = module._splat(inner["scene"][0], targets, size, train=False)
        losses = task.losses(rendered, batch)
        at_pixels = lambda x, *c: x.reshape(-1, *c)[inputs["pixels"]]
        embedded = inner["embedded"][0]
        outputs = {
            "patch_embedding": embedded.reshape(-1, *embedded.shape[3:])[:2],
            "block_0_tokens": inner["blocks"]["output"][0][0, :1],
            "gs_motion_bases": scene["bases"], "gs_affine": affine,
            "gs_sky_token": inner["sky"][0],
            "rendered_image": at_pixels(colours, colours.shape[-1]),
            "rendered_depth": at_pixels(rendered.depth),
            "rendered_alpha": at_pixels(rendered.alpha),
            "rendered_flow": at_pixels(rendered.flow, 3),
            "eval_flow": at_pixels(shown, 3),
            "eval_motion_segmentation": at_pixels(weights.argmax(-1)),
            "loss": sum(losses.values()),
        }
        for name, ours in SCENE.items():
            outputs[name] = scene[ours][:, :, :, rows][:, :, :, :, columns]
        outputs |= {f"loss_{name}": losses[k] for name, k in LOSSES.items() if k in losses}
        if rendered.decoded_depth is not None:
            outputs["decoded_image"] = rendered.image[..., ::5, ::7, :]
            outputs["decoded_depth"] = rendered.decoded_depth[..., ::5, ::7]
        return outputs["loss"], outputs

    return Case(forward, convert.rules(arguments), convert.LEFT_OUT)


def ray_maps(golden):
    size, patch = tuple(golden.config["image_size"]), golden.config["patch_size"]

    def forward(variables, inputs):
        del variables
        intrinsics, poses = inputs["intrinsics"], inputs["camtoworlds"]
        origins, directions = rays(intrinsics, poses, size, 1.0)
        coordinates = pluecker(origins, directions)
        cells = tuple(side // patch for side in size)
        coarse = rays(coarser(intrinsics, patch), poses, cells, 1.0)
        return None, {
            "origins": origins, "dirs": directions, "plucker": coordinates,
            "viewdirs": coordinates[..., 3:], "patch_origins": coarse[0], "patch_dirs": coarse[1],
        }

    return Case(forward)


def splatting(golden):
    config, names = golden.config, ("means", "quats", "scales", "opacities", "colors")
    size = config["height"], config["width"]
    options = {"near": config["near"], "far": config["far"]}

    def forward(variables, inputs):
        del variables
        views = inputs["viewmats"], inputs["intrinsics"]

        def loss(arrays):
            run = lambda arrays, *views: rasterise(Gaussians(*arrays), *views, size, **options)
            seen = jax.vmap(run)(arrays, *views)
            image = jnp.concatenate([seen.features, seen.depth[..., None]], -1)
            value = jnp.sum(image * inputs["cotangent_image"])
            return value + jnp.sum(seen.alpha * inputs["cotangent_alpha"]), seen

        arrays = tuple(inputs[name] for name in names)
        (value, seen), slopes = jax.value_and_grad(loss, has_aux=True)(arrays)

        def projected(arrays, view, intrinsics):
            points = to_camera(view, arrays[0])
            found = project(points, Gaussians(*arrays), view, intrinsics, size)
            return found.centres, found.conics, points[:, 2]

        per_view = jax.vmap(projected, (None, 0, 0))
        centres, conics, depths = jax.vmap(per_view)(arrays, *views)
        outputs = {
            "colour": seen.features, "expected_depth": seen.depth, "alpha": seen.alpha,
            "means_2d": centres, "conics": conics, "depths": depths, "loss": value,
        }
        return None, outputs | {f"grad_{name}": slope for name, slope in zip(names, slopes)}

    return Case(forward)


def flow(golden):
    ours = {"EPE3D": "epe3d", "acc3d_strict": "acc5", "acc3d_relax": "acc10",
            "outlier": "outlier", "angle_error": "angle"}

    def forward(variables, inputs):
        del variables
        found = scene_flow_metrics(inputs["prediction"], inputs["label"])
        return None, {name: found[key] for name, key in ours.items()}

    return Case(forward)


DRIVERS = {
    "GaussianSTORM::STORM": model,
    "GaussianSTORM::PluckerEmbedder": ray_maps,
    "GaussianSTORM::compute_scene_flow_metrics": flow,
    "storm::rasterise": splatting,
}
