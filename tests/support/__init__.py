"""What tests share: clients, factories, fakes."""
