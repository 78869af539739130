"""Lists the systems: python -m experiments."""

import importlib
import pkgutil

import configs


def systems() -> list[dict[str, str]]:
    """One row a system, read from its config module's docstring and FACTS."""
    rows = []
    names = sorted(info.name for info in pkgutil.iter_modules(configs.__path__))
    for name in (name for name in names if not name.startswith("_")):
        module = importlib.import_module(f"configs.{name}")
        rows.append(
            {
                "slug": name,
                "family": module.FACTS["family"],
                "parameters": f"{module.FACTS['parameters']:,}",
                "title": module.__doc__.strip().splitlines()[0],
            }
        )
    return rows


if __name__ == "__main__":
    for row in systems():
        print("{slug:<12} {family:<12} {parameters:>14}  {title}".format(**row))
    print("\nRun one: python -m experiments.<slug> [train|evaluate|predict|plan|benchmark]")
