"""RadioDiff's model package; the training loop is in `training`.

Names are imported from their modules, so that what reads a configuration or reports an error need not wait for torch.
"""
