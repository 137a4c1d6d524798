"""What a session's cost does not tell of."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0006_sessions"),
    ]

    operations = [
        migrations.AddField(
            model_name="session",
            name="unpriced_requests",
            field=models.BigIntegerField(default=0, help_text="Not in the cost."),
        ),
    ]
