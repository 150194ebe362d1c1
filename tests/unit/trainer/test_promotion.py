from gmem_trainer.promotion import is_promoted, promote


def publish(store, kind: str, content: bytes):
    return store.repository(kind, "digits").publish({"file": content})


def test_both_aliases_are_needed(store) -> None:
    assert not is_promoted(store, "digits")
    bank = publish(store, "banks", b"bank")
    model = publish(store, "models", b"model")
    store.repository("banks", "digits").set_alias("production", bank)
    assert not is_promoted(store, "digits")
    promote(store, "digits", bank, model)
    assert is_promoted(store, "digits")
    assert store.repository("models", "digits").alias("production").digest == model.digest


def test_a_model_with_class_labels_has_no_bank(store) -> None:
    assert not is_promoted(store, "digits")
    promote(store, "digits", None, publish(store, "models", b"model"))
    assert is_promoted(store, "digits")
    assert store.names("banks") == []


def test_an_alias_that_is_where_it_should_be_does_not_move(store) -> None:
    bank, model = publish(store, "banks", b"bank"), publish(store, "models", b"model")
    promote(store, "digits", bank, model)
    better = publish(store, "models", b"better")
    promote(store, "digits", bank, better)
    assert len(store.repository("banks", "digits").alias_history("production")) == 1
    assert len(store.repository("models", "digits").alias_history("production")) == 2


def test_the_bank_moves_first(store, monkeypatch) -> None:
    from gmem_shared.store import Repository

    moved = []
    move = Repository.set_alias

    def record(self, alias, target, **options):
        moved.append(target.kind)
        return move(self, alias, target, **options)

    monkeypatch.setattr(Repository, "set_alias", record)
    promote(store, "digits", publish(store, "banks", b"b"), publish(store, "models", b"m"))
    assert moved == ["banks", "models"]
