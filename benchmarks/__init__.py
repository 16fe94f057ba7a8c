import shala_audio  # noqa: F401  (it makes torchaudio loadable beside a torch of another build, before transformers wants it)
