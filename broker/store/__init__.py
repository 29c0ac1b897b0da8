"""The broker's database: implements ``broker.domain.ports.Store``. Only the composition root and commands import it."""
