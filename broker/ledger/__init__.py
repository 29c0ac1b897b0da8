"""Write it down: entries, their chain and tree, and the verifier that needs nothing but their bytes."""
