import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sessions_app", "0002_response_events"),
    ]

    operations = [
        migrations.CreateModel(
            name="ConversationItem",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("item_id", models.CharField(max_length=200)),
                (
                    "provider",
                    models.CharField(
                        blank=True,
                        help_text="Whose own Responses API said it, if any's.",
                        max_length=100,
                    ),
                ),
                ("body", models.TextField()),
                (
                    "conversation",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="said",
                        to="sessions_app.conversation",
                    ),
                ),
            ],
            options={
                "ordering": ["id"],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("conversation", "item_id"), name="item_of_conversation"
                    )
                ],
            },
        ),
    ]
